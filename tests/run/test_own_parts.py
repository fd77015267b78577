"""A code, a quantizer and a delay model of one's own join by one registry line, in the simulator and in processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import gcdist
from gcdist.coding import get_code, register_code
from gcdist.coding import registry as codes
from gcdist.quantize import register_quantizer
from gcdist.quantize import registry as quantizers
from gcdist.straggler import DELAYS, make_delays, register_delays
from tests.conftest import Start
from tests.run.own_parts import WORKERS, alternating, config, register, task, train

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    """For these tests alone: others go over all names."""
    tables: list[dict[str, Any]] = [codes._CODES, quantizers._CLASSES, DELAYS]
    before = [dict(table) for table in tables]
    register()
    yield
    for table, names in zip(tables, before, strict=True):
        table.clear()
        table.update(names)


def follows_the_code(run: Path) -> None:
    """Every partition of the plan is on two workers, with half of its weight each."""
    plan = json.loads((run / "plans" / "0.json").read_text())
    parts = sorted(tuple(part) for row in plan["rows"] for part in row["parts"])
    assert parts == [(j, 0.5) for j in range(6) for _ in range(2)]
    assert all(row["bits"] and set(row["bits"]) <= {8, 16} for row in plan["rows"])  # 16: the smallest parameters


def test_parts_of_ones_own_train_in_the_simulator(tmp_path: Path) -> None:
    mine = task()
    with gcdist.simulate(mine, config(cluster={"workers": WORKERS}), folder=tmp_path / "run") as cluster:
        losses = train(cluster, mine.model)
    assert losses[-1] < 0.1 * losses[0]
    follows_the_code(tmp_path / "run")
    steps = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    # the delays: three times 0.02 s in odd steps, next to nothing in even ones
    assert all((line["step_seconds"] >= 0.06) == (line["step"] % 2 == 1) for line in steps)


def test_parts_of_ones_own_train_in_processes(tmp_path: Path, start: Start) -> None:
    env = {"PYTHONSAFEPATH": "", "PYTHONPATH": str(HERE.parents[1])}
    cluster = start([str(HERE / "own_parts_script.py"), str(tmp_path / "run")], ranks=WORKERS + 1, env=env)
    assert cluster.wait(120.0) == [0] * (WORKERS + 1), cluster.output(0) + cluster.output(1)
    [line] = [line for line in cluster.output(0).splitlines() if line.startswith("losses")]
    losses = [float(word) for word in line.split()[1:]]
    assert losses[-1] < 0.1 * losses[0]
    follows_the_code(tmp_path / "run")


def test_a_name_that_is_taken_is_refused() -> None:
    with pytest.raises(ValueError, match="code 'joint' is there already"):
        register_code("joint", lambda: get_code("sync"))
    with pytest.raises(ValueError, match="quantizer 'bucket' is there already"):
        register_quantizer("bucket", lambda: None)  # type: ignore[arg-type, return-value]
    with pytest.raises(ValueError, match="delay model 'pareto' is there already"):
        register_delays("pareto", alternating)
    register_delays("alternating", alternating)  # the same again, as another import may do
    with pytest.raises(ValueError, match='found "alternatin"; did you mean "alternating"'):
        make_delays("alternatin", 2)
