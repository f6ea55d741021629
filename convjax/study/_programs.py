"""Compiled programs that are kept on disk: where, and how much of them."""

import contextlib
import hashlib
import os
import platform as machine
import time
import warnings
from collections.abc import Iterable
from pathlib import Path

LIMIT = 4 * 2**30  # bytes of all folders together
APART = 3600.0  # seconds between two looks at their size
# What tells processors apart in /proc/cpuinfo, on x86 and on ARM.
_TELLING = ("vendor_id", "model name", "flags", "CPU implementer", "CPU part", "Features")


def remember_programs() -> None:
    """Have JAX keep on disk all that it compiles, if there is room for it."""
    import jax

    here = folder()
    try:
        here.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    jax.config.update("jax_compilation_cache_dir", str(here))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # An entry that cannot be read or written is compiled anew, which is no reader's concern.
    about = "Error (reading|writing) persistent compilation cache entry"
    warnings.filterwarnings("ignore", message=about)
    # Where a limit is set, JAX keeps it by itself.
    if jax.config.values.get("jax_compilation_cache_max_size", -1) < 0:
        _keep_small(here.parent)


def _keep_small(base: Path) -> None:
    """Remove the programs that were used longest ago, beyond the limit; look once in an hour."""
    looked = base / "looked"
    with contextlib.suppress(OSError):
        if looked.exists() and time.time() - looked.stat().st_mtime < APART:
            return
        looked.touch()
        remove_oldest(base.glob("*-????????????/*-cache"), LIMIT)


def remove_oldest(paths: Iterable[Path], limit: int) -> None:
    """Remove files, the one first that was used longest ago, until the others are within a limit.

    Args:
      paths: the files; another process may remove them meanwhile.
      limit: in bytes.
    """
    files = []
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            about = path.stat()
            files.append((max(about.st_atime, about.st_mtime), about.st_size, path))
    left = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if left <= limit:
            return
        path.unlink(missing_ok=True)
        left -= size


def folder() -> Path:
    """Return where compiled programs are kept.

    JAX does not tell programs apart that it compiled for other processors, or for another number of
    threads; folders do.
    """
    named = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    base = Path(named) if named else Path(cache) / "convjax" / "compiled"
    threads = os.environ.get("NPROC") or str(os.cpu_count())
    return base / f"{threads}-{hashlib.sha256(_processor().encode()).hexdigest()[:12]}"


def _processor() -> str:
    """Return what is known of the kind of processor."""
    found = [machine.machine(), machine.processor()]
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        first = text.partition("\n\n")[0].splitlines()
        found += [line for line in first if line.partition("\t")[0].strip() in _TELLING]
    return "\n".join(found)
