import os
import subprocess
import sys

import pytest

from convjax import study

LARGE = 64 * 2**20
# How many pages are fetched anew when a large block is freed and asked for again.
COUNT = f"""
import ctypes, resource
{{prepare}}
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
def touch():
    block = libc.malloc({LARGE})
    ctypes.memset(block, 1, {LARGE})
    libc.free(block)
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
glibc = pytest.mark.skipif(
    "CS_GNU_LIBC_VERSION" not in getattr(os, "confstr_names", {}), reason="needs glibc"
)


def faults(prepare="", **environment):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    run = subprocess.run(
        [sys.executable, "-c", COUNT.format(prepare=prepare)],
        env={**kept, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(run.stdout)


@glibc
def test_a_freed_block_is_fetched_anew_unless_memory_is_kept():
    pages = LARGE // os.sysconf("SC_PAGE_SIZE")
    assert faults() > pages // 2
    assert faults("from convjax import study; assert study.keep_memory()") < pages // 100
    assert faults(**study.keeping_memory()) < pages // 100
