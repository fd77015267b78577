"""Arrays that are used again only when nobody can see them any more."""

from __future__ import annotations

import gc
import platform
import subprocess
import sys
import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch

from gcdist.memory import SMALL, Recycler, cycles_sought_seldom
from gcdist.types import U8

N = 3 * SMALL


def test_whoever_holds_a_view_holds_the_array() -> None:
    recycler = Recycler()
    held: list[object] = []
    seen = set()
    views: list[Callable[[U8], object]] = [
        lambda array: array,
        lambda array: array[5:7],
        lambda array: array.view(np.float32)[:1],
        lambda array: array.data,
        torch.from_numpy,
    ]
    for view in views:
        array = recycler.take(N)
        seen.add(array.ctypes.data)
        held.append(view(array))
        del array
    assert len(seen) == len(held)  # none was given twice
    held.clear()
    for _ in range(3):
        assert recycler.take(N).ctypes.data in seen
    assert len(recycler.take(SMALL - 1)) == SMALL - 1
    # another size of the same power of two
    assert recycler.take(N + 8).ctypes.data in seen


def test_threads_never_share_one() -> None:
    recycler = Recycler()
    wrong: list[int] = []

    def work(me: int) -> None:
        for _ in range(300):
            array: U8 = recycler.take(N)
            array[::4096] = me
            if (array[::4096] != me).any():
                wrong.append(me)
            del array

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


FAULTS = """
import resource, sys
from gcdist.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"x" * 40_000_000
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_used_again_without_page_faults() -> None:
    def faults(what: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", FAULTS, what], capture_output=True, text=True, check=True, timeout=120
        )
        return int(done.stdout)

    assert faults("keep") < 100 < faults("as it is")  # of 9,766 pages, if the kernel's pages are small


def test_cycles_are_sought_as_before_once_a_simulated_run_is_over() -> None:
    before = gc.get_threshold()
    with cycles_sought_seldom():
        assert gc.get_threshold() == (100_000, *before[1:])
        second = cycles_sought_seldom()
        second.__enter__()
    assert gc.get_threshold() == before
    second.__exit__(None, None, None)  # a second run that ends later does not bring it back
    assert gc.get_threshold() == before
