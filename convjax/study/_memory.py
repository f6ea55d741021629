"""keep_memory: have the process keep the memory that it frees."""

import ctypes
import os

# mallopt's parameters, from glibc's malloc.h, and the same by environment variable.
_SETTINGS = {
    "MALLOC_ARENA_MAX": (-8, 1),
    "MALLOC_MMAP_MAX_": (-4, 0),
    "MALLOC_TRIM_THRESHOLD_": (-1, 2**31 - 1),
    "MALLOC_TOP_PAD_": (-2, 2**26),
}


def keep_memory() -> bool:
    """Have the process keep the memory that it frees, for the next computation to use.

    XLA on CPU asks the C library for every result and every step's scratch space, and glibc by
    default gives blocks of more than 32 MiB back to the system as soon as they are freed; fetching
    them anew, page by page, then takes several times as long as filling them. The price is that
    the process does not shrink, and that its threads share one allocator.

    It is called once, before JAX computes anything, because threads that have begun keep their own
    ways. `MALLOC_ARENA_MAX=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=2147483647
    MALLOC_TOP_PAD_=67108864` in the environment do the same.

    Returns:
      Whether the C library took the settings; False where it is not glibc, as on macOS and Windows,
      and nothing is changed.

    Example:
      >>> from convjax import study
      >>> kept = study.keep_memory()

    Reference:
      mallopt(3), https://man7.org/linux/man-pages/man3/mallopt.3.html
    """
    if not hasattr(os, "confstr") or "CS_GNU_LIBC_VERSION" not in os.confstr_names:
        return False
    mallopt = ctypes.CDLL(None).mallopt
    taken = [mallopt(parameter, value) for parameter, value in _SETTINGS.values()]
    return all(taken)


def keeping_memory() -> dict[str, str]:
    """Return the environment variables by which another process keeps its memory.

    Returns:
      Names and values, for `subprocess`; without effect where the C library is not glibc.

    Example:
      >>> from convjax import study
      >>> study.keeping_memory()["MALLOC_ARENA_MAX"]
      '1'
    """
    return {name: str(value) for name, (_, value) in _SETTINGS.items()}
