"""What a row's differences to the newest gradients before it come to, by a sample of the coordinates."""

from __future__ import annotations

import numpy as np
import pytest

from gcdist.model.buffer_updates import no_update
from gcdist.model.gradients import PartitionResult
from gcdist.model.vector_format import Shape
from gcdist.types import F32, Layout
from gcdist.worker.change_watch import COORDINATES, UNKNOWN, Change, ChangeWatch


def result(partition: int, gradient: F32, sizes: tuple[int, ...] | None = None) -> PartitionResult:
    sizes = sizes or (len(gradient),)
    shape = Shape(Layout.flat(len(gradient)))
    return PartitionResult(
        step=0,
        partition=partition,
        shape=shape,
        loss=1.0,
        grads=tuple(np.split(gradient, np.cumsum(sizes[:-1]))),
        sizes=sizes,
        scale=np.float32(0.5),
        used=np.ones(shape.parameters, bool),
        share=0.1,
        indices=np.zeros(1, np.int64),
        samples=1,
        data_seconds=0.0,
        compute_seconds=0.0,
        cpu_seconds=0.0,
        buffers=no_update(shape),
        name_at=str,
    )


def looked(watch: ChangeWatch, step: int, g_KD: F32, done: list[int], sizes: tuple[int, ...] | None = None) -> Change:
    """A row of all partitions with coefficient 1, of which these are done."""
    watch.begin()
    for j in done:
        watch.add(step, 1.0, result(j, g_KD[j], sizes))
    return watch.change(step, [(j, 1.0) for j in range(len(g_KD))])


def test_all_coordinates_of_a_short_vector_are_looked_at() -> None:
    old_KD, new_KD = np.random.default_rng(0).standard_normal((2, 4, 10)).astype(np.float32)
    watch = ChangeWatch()
    assert looked(watch, 0, old_KD, [0, 1, 2, 3], (3, 0, 7)) == Change(UNKNOWN, UNKNOWN, UNKNOWN)
    found = looked(watch, 2, new_KD, [0, 2, 3], (3, 0, 7))
    done = [0, 2, 3]
    moved = (new_KD - old_KD)[done]
    assert found.age == 2
    assert found.spread == pytest.approx(moved.var(axis=0).sum() / new_KD[done].var(axis=0).sum(), rel=1e-5)
    x = 4 / 3 * moved.sum(axis=0)
    assert found.row == pytest.approx(np.square(x).sum() / np.square(old_KD.sum(axis=0) + x).sum(), rel=1e-5)
    again = looked(watch, 3, new_KD, [0, 1], (3, 0, 7))
    assert again.age == 2  # partition 0 is one step old, and partition 1 three


def test_a_sample_of_a_long_vector_is_near() -> None:
    """512 of 50,000 coordinates: the ratio of two sums has a deviation of a tenth at most, here for one fixed seed."""
    old_KD = np.random.default_rng(1).standard_normal((6, 50_000)).astype(np.float32)
    new_KD = old_KD + 0.1 * np.random.default_rng(2).standard_normal((6, 50_000)).astype(np.float32)
    watch = ChangeWatch()
    looked(watch, 0, old_KD, list(range(6)), (20_000, 30_000))
    found = looked(watch, 1, new_KD, list(range(6)), (20_000, 30_000))
    assert found.spread == pytest.approx(0.01, rel=0.3)
    assert all(len(values) == COORDINATES + 1 for values in watch.vectors().values())


def test_a_new_partition_says_nothing_and_a_new_plan_forgets() -> None:
    g_KD = np.ones((3, 5), np.float32)
    watch = ChangeWatch()
    looked(watch, 0, g_KD, [0, 1])
    assert looked(watch, 1, g_KD, [0]).spread == UNKNOWN  # nothing is known of partition 2
    looked(watch, 2, g_KD, [2])
    assert looked(watch, 3, g_KD, [0]).row == 0.0
    watch.keep([1, 2])
    assert set(watch.vectors()) == {1, 2}
    assert looked(watch, 4, g_KD, [0]).spread == UNKNOWN


def test_gradients_that_are_zero_or_not_finite_say_nothing() -> None:
    g_KD = np.zeros((2, 5), np.float32)
    watch = ChangeWatch()
    looked(watch, 0, g_KD, [0, 1])
    assert looked(watch, 1, g_KD, [0, 1]).spread == UNKNOWN
    assert looked(watch, 2, g_KD + np.float32(np.inf), [0, 1]).spread == UNKNOWN


def test_a_checkpoint_brings_it_back() -> None:
    old_KD, new_KD = np.random.default_rng(3).standard_normal((2, 4, 10)).astype(np.float32)
    watch, other = ChangeWatch(), ChangeWatch()
    looked(watch, 5, old_KD, [0, 1, 2, 3])
    other.restore(watch.vectors())
    assert looked(other, 7, new_KD, [1, 3]) == looked(watch, 7, new_KD, [1, 3])
