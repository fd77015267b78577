from __future__ import annotations

import pytest

from gcdist.launcher.restarts import MOST_WAIT, QUICK, QUICK_DEATHS, STEADY, Restarts


def test_the_wait_doubles_up_to_its_most_and_a_steady_life_sets_it_back() -> None:
    restarts = Restarts()
    assert [restarts.after(QUICK) for _ in range(9)] == [0.5, 1, 2, 4, 8, 16, MOST_WAIT, MOST_WAIT, MOST_WAIT]
    assert restarts.after(STEADY) == 0.5
    assert restarts.after(STEADY - 1) == 1.0
    assert restarts.done == 11


def test_quick_deaths_in_a_row_are_given_up() -> None:
    restarts = Restarts()
    assert [isinstance(restarts.after(1.0), float) for _ in range(QUICK_DEATHS - 1)] == [True] * (QUICK_DEATHS - 1)
    assert isinstance(restarts.after(QUICK), float)  # a longer life in between: the row begins anew
    answers = [restarts.after(1.0) for _ in range(QUICK_DEATHS)]
    assert all(isinstance(answer, float) for answer in answers[:-1])
    assert answers[-1] == "it died 5 times in a row within 10 s of its start"


@pytest.mark.parametrize("most", [0, 2])
def test_a_limit_of_restarts_is_kept(most: int) -> None:
    restarts = Restarts(most)
    assert [restarts.after(100.0) for _ in range(most + 1)] == [0.5] * most + ["no restart is left"]
