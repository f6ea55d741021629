"""A check for leaked tracers that looks at what is new, and not at all that the process holds."""

import contextlib
import gc

import jax


@contextlib.contextmanager
def checking_leaks():
    """Refuse tracers that outlive their trace, as ``jax.checking_leaks`` does.

    JAX collects garbage after every trace, which takes a tenth of a second where other tests left
    much: that is put aside.
    """
    gc.freeze()
    try:
        with jax.checking_leaks():
            yield
    finally:
        gc.unfreeze()
