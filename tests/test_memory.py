"""Freed memory is kept: pages that a second round of the same blocks faults in."""

import os
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

from inference import SVI, Split, check, evaluate, memory
from inference.evaluation import ais

from .pairs import PAIRS

PAGES = 3 * 16 * 2**20 // os.sysconf("SC_PAGE_SIZE")
"""Of the blocks of one round: more in all than glibc keeps by itself."""

ROUNDS = """
import ctypes, resource, runpy, sys
runpy.run_path(sys.argv[1])["keep_freed"]()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [libc.malloc(2**24) for _ in range(3)]
    for block in blocks:
        libc.memset(block, 1, 2**24)
    for block in blocks:
        libc.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(**environment: str) -> int:
    environment = {k: v for k, v in os.environ.items() if "MALLOC" not in k} | environment
    environment.pop("GLIBC_TUNABLES", None)
    command = [sys.executable, "-c", ROUNDS, memory.__file__]
    return int(subprocess.run(command, env=environment, check=True, capture_output=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator is what is set")
def test_freed_memory_is_kept_unless_the_user_says_otherwise() -> None:
    assert faults() < PAGES / 10
    assert faults(MALLOC_TRIM_THRESHOLD_="1048576") > PAGES / 2


def test_check_leaves_the_allocator_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what runs for long tells it: training, evaluation, annealing; their docs say so."""
    told = []
    library = SimpleNamespace(mallopt=lambda *words: told.append(words))
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: library)
    for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    pair = PAIRS["bernoulli"]()
    check(pair.model, pair.guide, pair.x)
    assert told == []
    SVI(pair.model, pair.guide).prepare(pair.x)
    assert len(told) == 2
    evaluate(pair.model, pair.guide, Split(pair.x), particles=2, show_progress=False)
    assert len(told) == 4
    ais(pair.model, pair.guide, pair.x, chains=1, distributions=1, leapfrog=1)
    assert len(told) == 6
    for documented in (SVI.prepare, evaluate, ais):
        assert "keep_freed" in (documented.__doc__ or "")
