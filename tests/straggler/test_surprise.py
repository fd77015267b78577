"""When promised chances can no longer be believed, and when they were only estimated from too little."""

from __future__ import annotations

import numpy as np
import pytest

from gcdist.straggler.surprise import Surprise


def told(p: float, arrived: int, of: int, steps: int = 1, outcomes: float = np.inf) -> int | None:
    """What these steps say, from step 5 on."""
    found = Surprise()
    for step in range(5, 5 + steps):
        for i in range(of):
            found.add(step, p, i < arrived, outcomes)
    return found.found()


def test_outcomes_that_are_next_to_impossible_are_found_with_the_step_that_they_began_at() -> None:
    assert told(0.1, 1, 8) == 5
    assert told(0.1, 1, 4) is None
    assert told(0.1, 1, 4, steps=3) == 6  # two steps are enough
    assert told(0.9, 7, 8) == 5
    assert told(0.1, 7, 8, steps=12) is None


@pytest.mark.parametrize("workers", [32, 512])
def test_a_chance_estimated_from_few_outcomes_is_no_promise(workers: int) -> None:
    """After m outcomes without an arrival p is ``m/(m+1)`` and not 1: nobody has changed."""
    for m in (1, 3, 10):
        assert told(m / (m + 1), 0, workers, outcomes=m) is None
        assert told(1 / (m + 1), workers, workers, outcomes=m) is None


@pytest.mark.parametrize("workers", [8, 32, 512])
def test_who_slows_down_after_many_outcomes_is_noticed_at_once(workers: int) -> None:
    assert told(0.05, 0, workers, outcomes=20) == 5
    assert told(0.1, 1, workers, steps=2, outcomes=30) is not None


def test_what_was_seen_comes_back_from_a_checkpoint_of_an_older_version_too() -> None:
    found, again, old = Surprise(), Surprise(), Surprise()
    for i in range(8):
        found.add(3, 0.1, i == 0, 1e6)
    again.load_state(found.state())
    old.load_state([each[:3] for each in found.state()])
    assert found.found() == again.found() == old.found() == 3
    assert again.state() == found.state()
