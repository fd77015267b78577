"""The figures of a step by hand: losses and metrics by samples, a partition that came twice counts once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from gcdist.exchange.sidecar import Sidecar
from gcdist.master.aggregator import Counted
from gcdist.master.round_result import RoundResult
from gcdist.model.buffer_updates import no_update
from gcdist.model.state import ModelState
from gcdist.run.step import step_info, take_into_model
from gcdist.types import Plan, StepTerms, Use

SIZES = np.array([0.5, 0.25, 0.25])
NOISE = np.append(np.inf, np.zeros(32))


def counted(row: int, parts: list[list[float]], metrics: tuple[dict[str, float], ...] = ()) -> Counted:
    sidecar = Sidecar(
        np.array(parts), compute_seconds=1.0 + row, data_seconds=0.5, cpu_seconds=2.0, metrics_P=metrics,
        used=np.array([True, row == 1]),
    )  # fmt: skip
    return Counted(row, Use(1.0), sidecar)


def a_round(*rows: Counted) -> RoundResult:
    A_RK = csr_array(np.array([[1.0, 0.5, 0.0], [0.0, 0.5, 1.0], [0.0, 0.0, 0.0]]))
    plan = Plan(7, A_RK, np.arange(3), np.full((3, 1), 32, np.uint8), np.full(3, 0.1), np.ones(3, bool))
    gradient = np.arange(6, dtype=np.float32) if rows else None
    live, terms = np.array([True, True, False]), StepTerms(0.5, np.full(3, 0.1))
    energy = 0.0 if gradient is None else float(gradient @ gradient)
    return RoundResult(4, gradient, energy, "deadline", 0.5, rows, plan, terms, live, (), 2, 100, 40, True)


def test_losses_and_metrics_are_means_over_the_samples_that_came() -> None:
    first = counted(0, [[0.0, 1.0, 0.5, 0.1], [1.0, 2.0, 0.25, 0.2]], ({"acc": 0.5}, {"acc": 1.0}))
    second = counted(1, [[1.0, 2.0, 0.25, 0.1], [2.0, 9.0, 0.0, 0.2]], ({"acc": 1.0}, {}))
    info = step_info(a_round(first, second), 12.0, (10, 60), NOISE, SIZES)
    assert info.loss == pytest.approx((0.5 * 1.0 + 0.25 * 2.0) / 0.75)  # partition 2 had nothing to train on
    assert info.metrics == {"acc": pytest.approx((0.5 * 0.5 + 0.25 * 1.0) / 0.75)}
    assert info.loss_share == 0.75
    assert (info.step, info.seconds, info.step_seconds, info.why, info.plan_id) == (4, 12.0, 0.5, "deadline", 7)
    assert (info.arrived, info.away, info.live) == ((1, 2), (3,), 2)
    assert (info.bytes_up, info.bytes_down, info.bytes_down_float32) == (10, 60, 100)
    assert (info.compute_seconds, info.data_seconds, info.cpu_seconds) == (1.5, 0.5, 1.0)
    assert info.noise_planned == pytest.approx(0.1 / 0.9 * (0.625**2 + 0.375**2))
    assert info.estimated


def test_a_step_without_arrivals_knows_nothing() -> None:
    info = step_info(a_round(), 12.0, (0, 0), NOISE, SIZES)
    assert (info.loss, info.loss_share, info.metrics, info.arrived) == (None, 0.0, {}, ())
    assert (info.compute_seconds, info.data_seconds, info.cpu_seconds, info.noise_observed) == (None,) * 4
    assert not info.estimated


def test_parameters_that_nobody_used_get_no_gradient_unless_older_messages_know_of_them() -> None:
    model = torch.nn.Linear(2, 2)
    state = ModelState(model)
    row = counted(0, [[0.0, 1.0, 0.5, 0.1]])
    row = replace(row, sidecar=replace(row.sidecar, buffers=no_update(state.shape)))
    take_into_model(a_round(row), state, remembers=False)
    assert model.weight.grad is not None
    assert model.weight.grad.tolist() == [[0.0, 1.0], [2.0, 3.0]]
    assert model.bias.grad is None
    take_into_model(a_round(row), state, remembers=True)
    assert [None if p.grad is None else p.grad.flatten().tolist() for p in model.parameters()] == [
        [0.0, 1.0, 2.0, 3.0],
        [4.0, 5.0],
    ]
    take_into_model(a_round(), state, remembers=False)
    assert [p.grad for p in model.parameters()] == [None, None]
