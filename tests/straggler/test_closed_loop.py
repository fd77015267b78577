"""Measured p in use: what the weights 1/(1-p) make of the gradient, in the delays of the benchmark.

Limits: 3% along the gradient, 6% for any worker, from the tenth step after the warm-up on. Seeds are fixed; each test says
how far beyond its limit a bias passes with which chance. `python tests/straggler/closed_loop.py` prints the figures.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from gcdist.straggler import make_stop_rule
from tests.straggler.closed_loop import AFTER, PARTITIONS, WORKERS, Bias, bias, delays_of, run

TRACES = Path(__file__).parents[3] / "shared" / "data" / "traces"
RUNS, STEPS = 24, 76


def measured(name: str, runs: int = RUNS) -> Bias:
    if name.startswith("trace:") and not Path(name.removeprefix("trace:")).exists():
        pytest.skip("recorded times are not here")
    return bias(name, runs, STEPS)


@pytest.mark.parametrize("name", ["exponential", "pareto", "dead"])
def test_the_estimate_is_unbiased_enough(name: str) -> None:
    """Along the gradient: standard error below 1.2%, so that a bias of 5.4% passes with 2.3%, one of 6.6% with 0.1%.

    The slowest workers' parts vary most, by up to 7%: a worker is refused beyond 6% and twice its own standard error.
    """
    found = measured(name)
    assert found.along_error < 0.012
    assert abs(found.along) < 0.03
    assert np.nanmax(np.abs(found.part_N) - 2 * found.part_error_N) < 0.06  # NaN: dead


def test_spells_are_unbiased_enough_on_average() -> None:
    """All workers have the same law; one worker's mean has a standard error of 7%, that of all eight is judged."""
    found = measured("spells", 40)
    assert abs(found.along) < 0.03 + found.along_error
    assert abs(np.mean(found.part_N)) < 0.06


@pytest.mark.parametrize("job", [1, 4])
def test_recorded_times_are_unbiased_enough(job: int) -> None:
    """No law is known, arrivals are counted: a standard error of up to 3% along the gradient."""
    found = measured(f"trace:{TRACES}/alibaba-pai-2020-job{job}.csv")
    assert abs(found.along) < 0.03 + 2 * found.along_error
    assert np.nanmax(np.abs(found.part_N) - 3 * found.part_error_N) < 0.06


def test_steps_with_a_longer_deadline_have_right_weights() -> None:
    """They were 30 to 67% too large."""
    assert np.nanmax(np.abs(measured("exponential").exploring_N)) < 0.15


def test_known_chances_are_exact() -> None:
    """The measure itself: with p from the model every part is 1."""
    delays, _ = delays_of("exponential")
    story = run(make_stop_rule(WORKERS, 2.0, p="model", delays=delays), delays, WORKERS, PARTITIONS, 30, 0)
    kept = story.share_TN > 0
    assert story.after[0] == 0
    # a ready worker's p is the model's; a busy one's is corrected by what was seen, which here is little
    assert np.abs(story.part_TN[kept & story.ready_TN] - 1).max() < 1e-9
    assert math.isclose(float(np.mean(story.share_TN.sum(axis=1))), 1.0)
    assert AFTER == 10
