"""Chances that the user gives: they are believed, and a line says when arrivals disprove them."""

from __future__ import annotations

from pathlib import Path

import pytest

import gcdist
from tests.simulator.test_faults_simulated import linear_task


@pytest.mark.parametrize(("late", "given", "warned"), [(0.5, 0.05, True), (0.05, 0.8, True), (0.5, 0.5, False)])
def test_wrong_chances_are_said_once(tmp_path: Path, late: float, given: float, warned: bool) -> None:
    trace = tmp_path / "times.csv"  # worker 2 is late in a share of the steps
    every = round(1 / late)
    trace.write_text(
        "step,w1,w2,w3\n" + "".join(f"{t},0.01,{0.3 if t % every == 0 else 0.01},0.01\n" for t in range(80)),
        encoding="utf-8",
    )
    config = gcdist.Config(
        cluster={"workers": 3},
        code={"scheme": "osgc"},
        inject={"model": "trace", "file": trace},
        straggler={"deadline": 0.1, "p": [0.01, given, 0.01]},
    )
    lines: list[str] = []

    def say(kind: str, text: str) -> None:
        if kind == "warning" and "straggler.p" in text:
            lines.append(text)

    with gcdist.simulate(linear_task(), config, folder=tmp_path / "run", say=say) as cluster:
        for step in cluster.steps(80):
            step.backward()
    assert len(lines) == warned
    if warned:
        assert "wrong for 1 of 3 workers" in lines[0]
        assert "worker 2 was in time in" in lines[0]
        assert f"promised were {1 - given:.0%}" in lines[0]
