"""The words of seeds and the samples drawn by them are numpy's own, to the last one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcdist.model.draws import MOST_DRAWN, MOST_SAMPLES, draw
from gcdist.model.randomness import Drawer, generators_are_kept, generators_kept
from gcdist.model.seed_words import seed_words

NUMBER = st.integers(0, 2**32 - 1)
SMALL = st.integers(0, 1000)


@settings(deadline=None)  # the first call compiles
@given(st.integers(0, 2**70), st.integers(0, 3), NUMBER, st.integers(0, 2**33), st.integers(1, 5))
def test_words_are_those_of_numpys_seed_sequence(seed: int, purpose: int, step: int, j: int, count: int) -> None:
    words = np.random.SeedSequence((seed, purpose, step, j)).generate_state(count, np.uint64)
    assert seed_words(seed, purpose, step, j, count).tolist() == words.tolist()


def test_a_negative_number_is_refused_as_by_numpy() -> None:
    with pytest.raises(ValueError, match="non-negative"):
        seed_words(-1, 0, 0, 0, 1)


@settings(deadline=None)
@given(SMALL, NUMBER, SMALL, st.integers(1, MOST_SAMPLES), st.integers(0, MOST_DRAWN))
def test_samples_are_those_of_numpys_choice(seed: int, step: int, j: int, population: int, size: int) -> None:
    size = min(size, population)
    numpys = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, 0, step, j))))
    wanted = numpys.choice(population, size, replace=False, shuffle=False)
    assert draw(seed_words(seed, 0, step, j, 2), population, size).tolist() == wanted.tolist()


@pytest.mark.parametrize(("population", "size"), [(5, 6), (MOST_SAMPLES + 1, 2), (1000, MOST_DRAWN + 1)])
def test_what_numpy_draws_in_another_way_is_refused(population: int, size: int) -> None:
    with pytest.raises(ValueError, match=f"found {size} of {population}"):
        draw(seed_words(0, 0, 0, 0, 2), population, size)


def test_a_generator_begins_anew_whatever_was_drawn_before() -> None:
    drawer = Drawer()
    for step in range(3):
        again = drawer.begin(7, 0, step, 2)
        again.random(3, np.float32)  # leaves half of a word
        numbers = drawer.begin(7, 0, step, 2).permutation(50)
        wanted = np.random.Generator(np.random.Philox(np.random.SeedSequence((7, 0, step, 2)))).permutation(50)
        assert numbers.tolist() == wanted.tolist()


def test_generators_are_kept_once() -> None:
    np.random.seed(5)  # noqa: NPY002
    before = np.random.get_state()[1].tolist()  # type: ignore[index] # noqa: NPY002
    with generators_kept():
        assert generators_are_kept()
        with generators_kept():
            np.random.seed(1)  # noqa: NPY002
        inner = float(np.random.rand())  # noqa: NPY002
        np.random.seed(1)  # noqa: NPY002
        assert inner == float(np.random.rand())  # the inner one gave nothing back # noqa: NPY002
    assert not generators_are_kept()
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index] # noqa: NPY002
