"""A run's load cap: kept where it costs little, relaxed before data is lost; noise is never accepted in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gcdist
from gcdist.coding import get_code
from gcdist.planning import load_cap, plan_within_load, straggler_noise
from gcdist.tasks import digits
from gcdist.types import Problem


def said(out: Path, p: list[float], **more: Any) -> tuple[list[str], list[int]]:
    """What a run of three steps says of its plan, and the loads of the workers."""
    lines: list[str] = []
    settings = gcdist.Config(
        out=out,
        cluster={"workers": len(p)},
        code={"partitions": 2 * len(p), "partial": False, **more},
        straggler={"deadline": 5.0, "p": p, "warmup_steps": 0},
    )
    with gcdist.simulate(
        digits.build(4, "mlp"), settings, say=lambda kind, text: lines.append(f"{kind}: {text}")
    ) as run:
        for step in run.steps(3):
            step.backward()
        assert run.plan is not None
        loads = np.diff(run.plan.A_RK.indptr).tolist()
    return [line for line in lines if line.startswith("plan: ")], loads


def test_a_run_keeps_to_the_cap_where_nothing_is_lost(tmp_path: Path) -> None:
    lines, loads = said(tmp_path, [0.05] * 5 + [0.99])
    assert max(loads) <= 3
    assert lines == []


def test_a_run_relaxes_the_cap_before_data_is_lost_and_says_so_once(tmp_path: Path) -> None:
    lines, loads = said(tmp_path, [0.02] + [0.99] * 5)
    assert loads[0] == 12
    assert len(lines) == 1
    assert (
        "a worker may compute 12 partitions, above the cap of 3 (code.load_most 1.25): within 3 the planned noise"
        in (lines[0])
    )


def test_a_run_says_that_its_planned_noise_is_large(tmp_path: Path) -> None:
    lines, _ = said(tmp_path, [0.9] * 4)
    assert len(lines) == 1
    assert "planned noise of stragglers" in lines[0]
    assert "is above straggler.noise_most 0.2: partitions 0, 1, 2, 3, 4, 5, 6, 7 of 8 are counted in 1" in lines[0]


@pytest.mark.parametrize("name", ["osgc", "joint", "self-normalised"])
def test_the_tightest_cap_that_loses_nothing_is_taken(name: str) -> None:
    p = np.array([0.02, 0.02, 0.02, 0.98, 0.98, 0.98, 0.98, 0.98])

    def late(worker: int, loads: Any) -> Any:
        return np.full(len(loads), p[worker])

    noise = np.append(np.inf, 0.1 / (2.0 ** np.arange(1, 9) - 1) ** 2)
    task = Problem(np.full(16, 1 / 16), late, noise, 32.0, np.full(8, 8), np.full(8, np.inf))
    assert load_cap(task, 1.25) == 3
    found = plan_within_load(get_code(name), task, 0, 1.25, 0.2)
    assert 3 < found.cap < 16
    assert straggler_noise(found.plan, task) <= 0.2
    assert any(about.startswith("load cap") for about in found.notices)
    free = plan_within_load(get_code(name), task, 0, np.inf)
    assert free.cap == np.inf
    assert free.notices == {}


def test_a_wider_cap_pays_with_the_chances_of_its_own_loads() -> None:
    """p was measured with 3 partitions; with 8 and more nobody is in time. One reliable worker must not get everything."""
    p = np.array([0.1, 0.4, 0.4, 0.6, 0.6, 0.8, 0.8, 0.8])

    def late(worker: int, loads: Any) -> Any:
        return np.full(len(loads), p[worker])

    def late_at(load: float) -> Any:
        return np.full(8, 0.99) if load > 3 else p

    noise = np.append(np.inf, 0.1 / (2.0 ** np.arange(1, 9) - 1) ** 2)
    task = Problem(np.full(16, 1 / 16), late, noise, 32.0, np.full(8, 8), np.full(8, np.inf))
    blind = plan_within_load(get_code("joint"), task, 0, 1.25, 0.05)
    assert np.diff(blind.plan.A_RK.indptr).max() > 3
    found = plan_within_load(get_code("joint"), task, 0, 1.25, 0.05, late_at)
    assert np.diff(found.plan.A_RK.indptr).max() <= 3
    assert found.notices.keys() == {"noise"}
