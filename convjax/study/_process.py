"""What a process that measures cells is like: of one thread, on one core, recalling its programs.

How XLA cuts a computation on the processor into parts depends on how many threads it has, and with
the parts the last bits of its sums. With one thread they are the same on any number of cores.
"""

import contextlib
import os
import signal
from importlib.metadata import entry_points

from convjax import _check
from convjax.study._memory import keeping_memory
from convjax.study._programs import remember_programs

# The threads of XLA's client of the processor, and of the linear algebra that it calls.
_ONE_THREAD = ("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


PLATFORMS = ("cpu", "gpu", "tpu")


def check_where(workers: int | None, platform: str | None) -> int | None:
    """Refuse what is no number of cells at a time, or no platform; return the number."""
    if platform is not None:
        _check.choice("platform", platform, PLATFORMS)
    return None if workers is None else _check.integer("workers", workers, 1)


def variables(platform: str | None = None) -> dict[str, str]:
    """Return the environment of a process that measures one cell at a time.

    They are there before the process imports JAX.

    Args:
      platform: "cpu", "gpu" or "tpu"; None for what JAX chooses there.
    """
    # XLA calls it an error of the machine when it reads its own program back; real ones are raised.
    found = {"TF_CPP_MIN_LOG_LEVEL": "3", **keeping_memory()}
    if platform not in ("gpu", "tpu"):
        found |= dict.fromkeys(_ONE_THREAD, "1")
    if platform is not None:
        # JAX's own alias "gpu" asks for every maker's at once, and fails where one is missing.
        maker = "rocm" if any("rocm" in name for name in _plugins()) else "cuda"
        found["JAX_PLATFORMS"] = maker if platform == "gpu" else platform
    return found


def settle(core: int | None = None) -> None:
    """Prepare this process for cells; called before anything is compiled.

    Ctrl-C is for the process that hands out the cells to answer. What is compiled is kept on disk.

    Args:
      core: of the processor, where the process stays from now on, if the system can do that.
    """
    if core is not None and hasattr(os, "sched_setaffinity"):
        # The cores that it may use can be fewer by now.
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, {core})
    with contextlib.suppress(ValueError):  # not the main thread, which is then another's concern
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    remember_programs()


def accelerated(platform: str | None) -> bool:
    """Tell whether JAX may find an accelerator, without asking it: that would take the memory."""
    platform = platform or os.environ.get("JAX_PLATFORMS") or None
    return platform != "cpu" and bool(_plugins())


def _plugins() -> list[str]:
    """Return the names of JAX's plugins for accelerators that are installed."""
    found = [one.name for one in entry_points(group="jax_plugins")]
    with contextlib.suppress(ImportError, ValueError):
        import importlib.util

        found += ["tpu"] * (importlib.util.find_spec("libtpu") is not None)
    return found
