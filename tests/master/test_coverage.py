"""Which part of the data was counted: the line while it happens, the summary's figures, a checkpoint."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from scipy.sparse import csr_array

import gcdist
from gcdist.exchange.sidecar import Sidecar
from gcdist.master.coverage import Coverage
from gcdist.observe import Progress, StepRecord, print_summary
from gcdist.tasks import digits
from gcdist.types import Plan

A = csr_array(np.array([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.5], [0.0, 0.0, 0.0, 0.5]]))
PLAN = Plan(0, A, np.arange(3), np.full((3, 1), 4, np.uint8), np.array([0.1, 0.1, 0.9]), np.ones(4, np.bool_))
SIZES = np.array([0.4, 0.3, 0.2, 0.1])


def step(*rows: int) -> Any:
    counted = [
        SimpleNamespace(row=row, sidecar=Sidecar(np.array([[j, 0.5, 0.1, 0.0] for j, _ in PLAN.parts(row)])))
        for row in rows
    ]
    return SimpleNamespace(counted=counted, gradient=np.zeros(1) if rows else None, plan=PLAN)


def test_a_partition_that_is_hardly_ever_counted_is_said_while_it_happens() -> None:
    coverage = Coverage(SIZES)
    lines = [coverage.add(step(0)) for _ in range(19)]
    assert lines == [None] * 19
    assert coverage.add(step(0)) == (
        "partitions 2, 3 (30.0% of the samples) counted in none of the last 20 steps: the model hardly learns from them; "
        'workers 2, 3 have them: a longer straggler.deadline (or "wait") or a larger code.load_most counts them'
    )
    # once, and again after twice the steps
    later = [coverage.add(step(0)) for _ in range(20)]
    assert [n for n, line in enumerate(later) if line] == [19]
    # well again, then lost again: said anew
    again = [coverage.add(step(0, 1)) for _ in range(50)] + [coverage.add(step(0)) for _ in range(60)]
    assert sum(line is not None for line in again) == 1


def test_what_is_stored_without_a_coefficient_does_not_count_and_what_is_remembered_does() -> None:
    A_RK = A.copy()
    A_RK.data[0] = 0.0  # row 0 computes partition 0, and it stands for nothing
    plan = Plan(0, A_RK, PLAN.worker_R, PLAN.bits_RS, PLAN.p_R, PLAN.covered_K)

    def counted(row: int, partitions: list[int], memory: float = 0.0) -> Any:
        parts_P4 = np.array([[j, 0.5, 0.1, 0.0] for j in partitions])
        return SimpleNamespace(row=row, sidecar=Sidecar(parts_P4, memory=memory))

    def counts(*messages: Any) -> list[int]:
        coverage = Coverage(SIZES)
        coverage.add(SimpleNamespace(counted=list(messages), gradient=np.zeros(1), plan=plan))  # type: ignore[arg-type]
        found: list[int] = coverage._count_K.tolist()
        return found

    assert counts(counted(0, [0, 1])) == [0, 1, 0, 0]
    assert counts(counted(0, [0]), counted(1, [3])) == [0, 0, 0, 1]
    assert counts(counted(0, [0], memory=2.0), counted(1, [2], memory=2.0)) == [0, 1, 1, 1]
    assert counts() == [0, 0, 0, 0]


def test_a_partition_that_comes_now_and_then_is_not_said() -> None:
    coverage = Coverage(SIZES)
    rng = np.random.default_rng(0)
    # p = .5: less than 5 in 50 have a chance below 1e-9
    assert not any(coverage.add(step(0, 1) if rng.random() < 0.5 else step(0)) for _ in range(2000))


def test_the_figures_of_the_summary() -> None:
    coverage = Coverage(SIZES)
    for rows in ((0, 1), (0,), (), (0, 2), (0,)):
        coverage.add(step(*rows))
    assert (coverage.steps, coverage.without_gradient, coverage.incomplete) == (5, 1, 4)
    assert coverage.share == pytest.approx((4 * 0.7 + 0.2 * 1 + 0.1 * 2) / 5)
    found = [(c.partition, c.counted, c.ago, c.longest) for c in coverage.partitions()]
    assert found == [(2, 1, 4, 4), (3, 2, 1, 2), (0, 4, 0, 1), (1, 4, 0, 1)]
    again = Coverage(SIZES)
    again.load_state_dict(coverage.state_dict())
    assert again.partitions() == coverage.partitions()
    never = Coverage(SIZES)
    never.add(step(0))
    assert never.partitions()[0].ago is None


def test_a_run_says_what_it_leaves_out(tmp_path: Path) -> None:
    lines: list[str] = []
    settings = gcdist.Config(
        out=tmp_path,
        cluster={"workers": 3},
        code={"scheme": "ignore", "partitions": 6},
        inject={"model": "shifted-exponential", "shift": [0.1, 0.1, 5.0], "mean": 0.001},
        straggler={"deadline": 0.5, "warmup_steps": 1},
    )
    task = digits.build(8, "mlp")
    with gcdist.simulate(task, settings, say=lambda kind, text: lines.append(f"{kind}: {text}")) as cluster:
        optimizer = torch.optim.SGD(task.model.parameters(), lr=0.1)
        infos = []
        for one in cluster.steps(30):
            infos.append(one.backward())
            optimizer.step()
        summary = cluster.summary()
    warned = [line for line in lines if line.startswith("warning: partitions 4, 5 (33.")]
    assert len(warned) == 1
    assert "worker 3 has them" in warned[0]
    assert 0.6 < infos[-1].loss_share < 0.7
    assert summary.partitions_missed == 2
    assert summary.samples_counted < 0.72
    assert [part.partition for part in summary.partitions] == [4, 5]
    out = io.StringIO()
    print_summary(summary, Console(file=out, width=120))
    assert "partitions that were counted least" in out.getvalue()
    assert "data counted" in out.getvalue()


def test_the_printed_loss_says_which_part_of_the_data_it_is_of() -> None:
    out = io.StringIO()
    with Progress(2, Console(file=out, width=200), every=1) as progress:
        progress.step(StepRecord(0, 1.0, 1.0, 0.5, (1, 2), (), 3, 1, 1, 1.0, "deadline", None, None, 1, 0.667))
        progress.step(StepRecord(1, 2.0, 1.0, 0.5, (1, 2, 3), (), 3, 1, 1, 1.0, "complete", None, None, 1, 1.0))
    first, second = out.getvalue().splitlines()
    assert "loss 0.5000 of 67% of the data  arrived 2/3" in first
    assert "loss 0.5000  arrived 3/3" in second
