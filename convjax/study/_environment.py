"""environment: what a measurement was made by."""

import datetime
import functools
import importlib.metadata
import platform

import jax

import convjax

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def environment() -> dict[str, str | int]:
    """Return versions, platform, device and time, to be kept beside what was measured.

    Returns:
      A dictionary that JSON can hold. Asking for the device initialises JAX.

    Example:
      >>> from convjax import study
      >>> sorted(study.environment())[:4]
      ['convjax', 'device_count', 'device_kind', 'flax']
    """
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {**_lasting(), "time": now}


@functools.cache
def _lasting() -> dict[str, str | int]:
    """Return what does not change while the process lasts; it takes as long as a small cell."""
    device = jax.devices()[0]
    return {
        "convjax": convjax.__version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
        "machine": platform.machine(),
        "system": platform.system(),
        "platform": device.platform,
        "device_kind": device.device_kind,
        "device_count": jax.device_count(),
    }
