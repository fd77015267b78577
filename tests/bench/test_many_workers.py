"""The smallest runs of `benchmarks/many_workers.py`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from tests.bench.scripts import script


@pytest.fixture(scope="module")
def many() -> ModuleType:
    return script("many_workers")


def test_the_smallest_run_reaches_the_target_and_is_kept(many: ModuleType, tmp_path: Path) -> None:
    cell = many.Cell("sizes", "pareto", "sync", 8, 0)
    path = tmp_path / cell.place
    row = many.kept(path, cell)
    assert row["loss"] < 10 * many.TARGET
    assert row["reached"] == pytest.approx(row["curve"][-1][0], abs=1e-3)
    assert row["reached"] > row["steps"] * many.ALONE / 8  # a step takes a pace at least
    assert row["length"] == pytest.approx(1.0, abs=0.05)  # of a gradient that waits for all
    assert path.exists()
    assert many.kept(path, cell) == row


def test_every_cell_has_settings(many: ModuleType) -> None:
    for cell in {replace(cell, workers=20, seed=0) for cell in many.cells()}:
        task, config = many.settings(cell)
        assert config.cluster.workers == 20
        assert len(task.dataset) >= config.code.partitions * config.task.batch_size


def test_the_slow_tenth_and_who_reads_what(many: ModuleType) -> None:
    cell = many.Cell("local", "two", "auto", 20, 0)
    shift = many.injected(cell, 4.0, 1.0)["shift"]
    assert shift == [0.25] * 18 + [2.5] * 2
    assert many.holds("own", 3) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert many.holds("two", 4)[1] == [4, 5, 6, 7, 12, 13, 14, 15]
    assert many.holds("shared", 4) is None
