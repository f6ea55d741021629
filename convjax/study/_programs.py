"""Compiled programs that are kept on disk: where, and how much of them."""

import atexit
import contextlib
import hashlib
import os
import platform as machine
import time
import warnings
from collections.abc import Iterable
from pathlib import Path

from convjax import _check

LIMIT = 4 * 2**30  # bytes of all folders together
APART = 3600.0  # seconds between two looks at their size
# What tells processors apart in /proc/cpuinfo, on x86 and on ARM.
_TELLING = ("vendor_id", "model name", "flags", "CPU implementer", "CPU part", "Features")


def keep_programs(folder: str | os.PathLike[str] | None = None, *, limit: int = LIMIT) -> Path:
    """Keep on disk all that JAX compiles from now on: the next script does not compile it again.

    One line at the top of a script. It serves short scripts, profiles of many networks, and work
    that starts the same script again and again: what the second run still pays is tracing and
    reading. **Steps get slower on x86-64 Linux**: JAX cannot write a program that calls oneDNN, so
    that the convolutions of ``convjax.ops`` do without it where they choose (``lowering="auto"``).
    A training of more than some minutes is better without this line.

    Args:
      folder: where; None is ``$JAX_COMPILATION_CACHE_DIR``, else ``convjax/compiled`` in
        ``$XDG_CACHE_HOME`` or ``~/.cache``, which the workers of ``study.run`` share. It may be
        deleted at any time. JAX trusts what it reads there: take no folder that others write to.
      limit: of all programs in the folder together, in bytes; 4 GiB unless said otherwise. What
        was used longest ago is removed when this is called and when the process ends. Where
        ``jax_compilation_cache_max_size`` is set, JAX keeps that limit instead.

    Returns:
      The folder in it where this process keeps its programs: one for each kind of processor and
      number of threads.

    Raises:
      OSError: the folder cannot be made.
      ValueError: a negative limit, no path, or one below a file.

    Example:
      >>> import tempfile
      >>> from convjax import study
      >>> study.keep_programs(tempfile.mkdtemp(), limit=2**30).is_dir()
      True
    """
    limit = _check.integer("limit", limit, 0)
    base = _base() if folder is None else _check.place("folder", folder).absolute()
    here = _within(base)
    here.mkdir(parents=True, exist_ok=True)
    _tell_jax(here)
    if not _jax_keeps_small():
        if not _limits:
            atexit.register(_remove_at_exit)
        _limits[base] = limit
        _remove_beyond(base, limit)
    return here


_limits: dict[Path, int] = {}  # of the folders that were asked for in this process


def _remove_at_exit() -> None:
    for base, limit in _limits.items():
        _remove_beyond(base, limit)


def remember_programs() -> None:
    """Have JAX keep on disk all that a worker compiles, if there is room for it."""
    here = folder()
    try:
        here.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    _tell_jax(here)
    if not _jax_keeps_small():
        _keep_small(here.parent)


def _tell_jax(here: Path) -> None:
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    jax.config.update("jax_compilation_cache_dir", str(here))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # JAX looks for a folder at its first compilation alone, which may have been.
    compilation_cache.reset_cache()
    # An entry that cannot be read or written is compiled anew, which is no reader's concern.
    about = "Error (reading|writing) persistent compilation cache entry"
    warnings.filterwarnings("ignore", message=about)


def _jax_keeps_small() -> bool:
    """Whether a limit is set that JAX keeps by itself."""
    import jax

    return jax.config.values.get("jax_compilation_cache_max_size", -1) >= 0


def _remove_beyond(base: Path, limit: int) -> None:
    """Remove the programs that were used longest ago, beyond a limit."""
    remove_oldest(base.glob("*-????????????/*-cache"), limit)


def _keep_small(base: Path) -> None:
    """Remove the programs that were used longest ago, beyond the limit; look once in an hour."""
    looked = base / "looked"
    with contextlib.suppress(OSError):
        if looked.exists() and time.time() - looked.stat().st_mtime < APART:
            return
        looked.touch()
        _remove_beyond(base, LIMIT)


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
    """Return where a worker's compiled programs are kept."""
    return _within(_base())


def _base() -> Path:
    named = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(named) if named else Path(cache) / "convjax" / "compiled"


def _within(base: Path) -> Path:
    """Return where programs for this processor and number of threads lie.

    JAX does not tell programs apart that it compiled for other processors, or for another number of
    threads; folders do.
    """
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
