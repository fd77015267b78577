"""What `benchmarks/failures.py` says of a run whose steps are known."""

from __future__ import annotations

from types import ModuleType

import pytest

from tests.bench.scripts import script


@pytest.fixture(scope="module")
def failures() -> ModuleType:
    return script("failures")


CALM = [(0.5 * i, i, 4) for i in range(1, 21)]  # until 10.0 s


def test_the_others_go_on_and_the_killed_worker_comes_back(failures: ModuleType) -> None:
    later = [(10.5, 21, 4), (11.5, 22, 3), (12.0, 23, 3), (12.5, 24, 4), (13.0, 25, 4)]
    found = failures.judged(CALM + later, 0.0, struck=10.1, free=10.1, since=12.1, end=13.2)
    assert found == {"pause": 0.5, "lost": 0, "whole": 2.4, "usual": 0.5}  # the step of 10.5 s was on its way


def test_steps_from_a_checkpoint_are_made_again(failures: ModuleType) -> None:
    later = [(18.0 + 0.5 * i, 17 + i, 4) for i in range(8)]  # 17 to 20 once more
    found = failures.judged(CALM + later, 0.0, struck=10.1, free=10.1, since=15.0, end=22.0)
    assert found == {"pause": 7.5, "lost": 4, "whole": 7.9, "usual": 0.5}


def test_steps_that_are_given_up_are_lost(failures: ModuleType) -> None:
    later = [(13.0, 20, 3), (16.0, 20, 3), (16.5, 21, 4)]
    found = failures.judged(CALM + later, 0.0, struck=10.1, free=10.1, since=11.0, end=17.0)
    assert found == {"pause": 2.5, "lost": 2, "whole": 6.4, "usual": 0.5}


def test_a_stopped_worker_is_awaited_and_a_run_that_never_comes_back_is_not_whole(failures: ModuleType) -> None:
    found = failures.judged([*CALM, (30.4, 21, 4)], 0.0, struck=10.1, free=30.1, since=30.1, end=30.9)
    assert found == {"pause": 19.9, "lost": 0, "whole": 0.3, "usual": 0.5}
    found = failures.judged(CALM, 0.0, struck=10.1, free=10.1, since=10.1, end=130.0)
    assert found == {"pause": 119.5, "lost": 0, "whole": None, "usual": 0.5}
