"""torchft and hivemind as schemes: the line without them, the tuning of their timeouts, and torchft's real processes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from gcdist.bench import peers
from gcdist.bench.cells import Cell, Outcome
from gcdist.bench.engine import Bench, cells_of
from gcdist.bench.processes import forkserver, run_cell
from gcdist.bench.schemes import SCHEMES
from gcdist.bench.tuning import Choice, tune_timeout
from gcdist.config import ConfigError


def bench(*schemes: str) -> Bench:
    return Bench("digits", schemes, ("none",), workers=2, seeds=1)


@pytest.mark.parametrize("name", ["torchft", "hivemind"])
def test_a_missing_package_is_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda package: None)
    assert name not in peers.installed(SCHEMES)
    assert "sync" in peers.installed(SCHEMES)
    with pytest.raises(ConfigError) as caught:
        bench("sync", name).check()
    assert str(caught.value) == f"schemes: {name!r} needs {name}, which is not installed: pip install gcdist[peers]"


def test_timeouts_are_tuned_by_real_runs_with_the_step_size_of_waiting_for_all() -> None:
    seconds = {1.0: 9.0, 2.0: 4.0, 5.0: 7.0}
    ran: list[tuple[float, float, int | None]] = []

    def run(cell: Cell) -> Outcome:
        assert isinstance(cell.deadline, float)
        ran.append((cell.lr, cell.deadline, cell.share))
        took = seconds[cell.deadline] if cell.share == 8 else 3.0
        over = took > cell.budget
        return Outcome(
            "budget" if over else "reached", seconds=math.nan if over else took, curve=[(2, took, 1.0, 0.5, 0)]
        )

    like = Choice(0.8, "wait", 8, 2.0, True, [(0.8, "wait", 8, 2.0), (1.6, "wait", 32, 3.0), (0.8, "wait", 32, 5.0)])
    choice = tune_timeout(bench("torchft").cell("none", "torchft", 1001), like, run)
    assert ran == [(0.8, 1.0, 8), (0.8, 2.0, 8), (0.8, 5.0, 8), (1.6, 2.0, 32)]
    assert (choice.lr, choice.deadline, choice.share, choice.reached) == (1.6, 2.0, 32, True)


def test_a_cell_takes_its_own_timeout() -> None:
    like, own = Choice(0.8, "wait", 8, 2.0, True), Choice(0.8, 2.0, 8, 3.0, True)
    cells = cells_of(bench("ddp", "torchft"), {("none", "sync"): like, ("none", "torchft"): own})
    assert {cell.scheme: cell.deadline for cell in cells} == {"ddp": "wait", "torchft": 2.0}


def test_torchft_trains_as_ddp_does(tmp_path: Path) -> None:
    pytest.importorskip("torchft", exc_type=ImportError)
    found = {}
    for scheme, deadline in (("ddp", "wait"), ("torchft", 30.0)):
        cell = Cell("digits", "none", scheme, 2, 0, 0.8, deadline, 0.05, target=1.2, budget=60.0)  # type: ignore[arg-type]
        found[scheme] = run_cell(forkserver(), cell, tmp_path / scheme / "seed0.json")
    assert [o.status for o in found.values()] == ["reached", "reached"], {k: o.why for k, o in found.items()}
    assert found["ddp"].steps == found["torchft"].steps
    for one, other in zip(found["ddp"].curve, found["torchft"].curve, strict=True):
        assert one[2] == pytest.approx(other[2], rel=1e-3)  # the same batches, summed in another order
