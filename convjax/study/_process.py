"""What a process that measures cells is like: of one thread, on one core, recalling its programs.

How XLA cuts a computation on the processor into parts depends on how many threads it has, and with
the parts the last bits of its sums. With one thread they are the same on any number of cores.
"""

import contextlib
import hashlib
import os
import platform as machine
import signal
import warnings
from importlib.metadata import entry_points
from pathlib import Path

from convjax.study._memory import keeping_memory

# The threads of XLA's client of the processor, and of the linear algebra that it calls.
_ONE_THREAD = ("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
# What tells processors apart in /proc/cpuinfo, on x86 and on ARM.
_TELLING = ("vendor_id", "model name", "flags", "CPU implementer", "CPU part", "Features")


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
    _remember_programs()


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


def _remember_programs() -> None:
    """Have JAX keep on disk all that it compiles, if there is room for it."""
    import jax

    folder = _programs()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # An entry that cannot be read or written is compiled anew, which is no reader's concern.
    about = "Error (reading|writing) persistent compilation cache entry"
    warnings.filterwarnings("ignore", message=about)


def _programs() -> Path:
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
