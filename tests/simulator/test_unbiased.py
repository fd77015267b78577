"""The decoded gradient is right on average, end to end: real model, packed bits, random arrivals, both machines.

Each check is one z-test on many simulated rounds with fixed parameters and full batches, so that the true gradient is one
known vector. |z| < 5 fails a right program with probability 6e-7 a test; seeds are fixed. The same checks must fail when a
weight, the rounding or p is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import gcdist
from gcdist.model.gradients import PartitionGradients, PartitionResult
from gcdist.observe import RunFolder
from gcdist.run.cluster import Cluster
from gcdist.run.session import Session
from gcdist.simulator.world import simulated
from gcdist.types import (
    F32,
    F64,
    U8,
    Accumulator,
    Decoder,
    Encoded,
    GradientCode,
    Key,
    Plan,
    Quantizer,
    StepTerms,
    Use,
    Weighting,
)

WORKERS, PARTITIONS, ROUNDS = 5, 7, 2000
MISS = (0.4, 0.5, 0.55, 0.6, 0.45)
DEADLINE = 1.0


class Points(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor]]):
    def __init__(self) -> None:
        rng = np.random.default_rng(3)
        self.x = torch.from_numpy(rng.standard_normal((42, 4)).astype(np.float32))
        # far from the model: partitions differ and yet agree in the main, so that a small bias of the weights shows
        self.y = torch.from_numpy(4 + np.sort(rng.standard_normal((42, 1)), axis=0).astype(np.float32))

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.x[index], self.y[index]


def loss_fn(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    x, y = batch
    return nn.functional.mse_loss(model(x), y)


def task() -> gcdist.Task:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))
    return gcdist.Task(model, Points(), loss_fn, batch_size=42)  # more than a partition holds: every batch is whole


def config(
    out: Path,
    scheme: str = "osgc",
    p: object = "model",
    quantizer: dict[str, object] | None = None,
    options: dict[str, object] | None = None,
    miss: tuple[float, ...] = MISS,
) -> gcdist.Config:
    # the mean of each worker's exponential delay that gives its chance to miss at the deadline; a network without delay
    means = tuple(float(-DEADLINE / np.log(m)) for m in miss)
    return gcdist.Config(
        out=out,
        cluster={"workers": WORKERS},
        code={"scheme": scheme, "partitions": PARTITIONS, "options": options or {}},
        quantizer=quantizer or {"name": "bucket", "bits": 3},
        inject={"model": "shifted-exponential", "mean": means},
        straggler={"deadline": DEADLINE, "p": p, "replan_every": 10**6, "warmup_steps": 0},
        simulate={"latency": 0.0, "bandwidth": 1e18, "compute_seconds": 0.0},
    )


def true_gradient(of: gcdist.Task) -> F64:
    torch.autograd.backward(loss_fn(of.model, (of.dataset.x, of.dataset.y)))
    g = torch.cat([p.grad.reshape(-1) for p in of.model.parameters() if p.grad is not None])
    of.model.zero_grad()
    return np.asarray(g.numpy(), np.float64)


def estimates(
    settings: gcdist.Config, folder: Path, change: Callable[[Session], Session] = lambda s: s, workers: int = WORKERS
) -> F64:
    """Decoded gradients of ROUNDS steps at fixed parameters, (T, d); zero where nobody arrived.

    Self-normalised decoding skips such steps: it promises a mean for the others, so they are left out.
    """
    session = change(Session.build(task(), settings, workers))
    remember_gradients(session.gradients)
    driver, _ = simulated(session, lambda kind, text: None)
    rows = []
    with Cluster(session, driver, RunFolder(folder)) as cluster:
        for step in cluster.steps(ROUNDS):
            step.backward()
            grads = [p.grad for p in session.task.model.parameters()]
            flat = [
                torch.zeros_like(p) if g is None else g for p, g in zip(session.state.parameters, grads, strict=True)
            ]
            rows.append(torch.cat([f.reshape(-1) for f in flat]).double().numpy().copy())
    return np.stack(rows)


def remember_gradients(gradients: PartitionGradients) -> None:
    """Compute each partition once: at fixed parameters and with whole batches its gradient is the same in every step."""
    compute, made = gradients.compute, dict[int, PartitionResult]()

    def once(step: int, j: int) -> PartitionResult:
        if j not in made:
            made[j] = _copied(compute(step, j))
        return _copied(made[j])  # whoever takes it may write into it

    gradients.compute = once  # type: ignore[method-assign]


def _copied(result: PartitionResult) -> PartitionResult:
    return replace(result, grads=tuple(None if grad is None else grad.copy() for grad in result.grads))


def z_scores(ghat_TD: F64, g_D: F64) -> F64:
    """z of the mean error along g and of every coordinate, (1 + d,)."""
    error = ghat_TD - g_D
    columns: F64 = np.column_stack([error @ g_D, error])
    z: F64 = columns.mean(axis=0) / (columns.std(axis=0) / np.sqrt(len(columns)) + 1e-12)
    return z


@pytest.mark.parametrize(
    ("scheme", "options"),
    [
        ("osgc", {}),
        ("osgc", {"decoding": "predictor"}),
        ("joint", {"allocation": "replicated:2"}),
        ("self-normalised", {}),
        ("shifted", {}),
    ],
)
def test_decoded_gradient_is_unbiased(tmp_path: Path, scheme: str, options: dict[str, object]) -> None:
    # the errors of predictor and shifted have no mean given their past: the same z-test holds for them
    settings = config(tmp_path, scheme, options=options)
    if scheme == "self-normalised":
        # smaller p, for which its weights exist; and given, as the weights are not linear in p
        miss = (0.1, 0.2, 0.15, 0.3, 0.2)
        settings = config(tmp_path, scheme, p=miss, options=options, miss=miss)
    z = z_scores(estimates(settings, tmp_path / "run"), true_gradient(task()))
    assert np.abs(z).max() < 5


class _WeightOne:
    """A decoder that forgets the inverse weights."""

    def __init__(self, inner: Decoder) -> None:
        self._inner = inner
        self.late, self.complete, self.close = inner.late, inner.complete, inner.close

    def arrive(self, row: int) -> Use:
        use = self._inner.arrive(row)
        return Use(1.0 if use.weight else use.weight, use.beta)


class _CodeWith:
    """A code whose decoders are wrapped."""

    unbiased, shifted, partial, waits, allow_negative, chooses_loads = True, False, False, False, False, True
    weighting = Weighting.INVERSE

    def __init__(self, inner: GradientCode, wrap: Callable[[Decoder], Decoder]) -> None:
        self._inner, self._wrap = inner, wrap
        self.name, self.design = inner.name, inner.design

    def open(self, plan: Plan, terms: StepTerms) -> Decoder:
        return self._wrap(self._inner.open(plan, terms))


class _Nearest:
    """The bucket quantizer with its randomness taken away: every key becomes one key, so the rounding never averages out."""

    unbiased = True

    def __init__(self, inner: Quantizer) -> None:
        self._inner = inner
        self.name, self.nbytes, self.noise, self.bound, self.check = (
            inner.name,
            inner.nbytes,
            inner.noise,
            inner.bound,
            inner.check,
        )

    def encode(self, x: F32, bits: int, key: Key, out: U8) -> Encoded:
        """Round to the nearest grid point: of many random roundings, the one with the least error in each coordinate."""
        best, trial = np.full(len(x), np.inf, np.float32), np.zeros(len(x), np.float32)
        nearest = x.copy()
        for draw in range(12):
            scratch = np.zeros(self.nbytes(len(x), bits), np.uint8)
            self._inner.encode(x, bits, Key(draw, 0, 0, 0), scratch)
            trial.fill(0)
            accumulator = self._inner.accumulator(len(x), Key(draw, 0, 0, 0))
            accumulator.add(scratch, bits, 0, 1.0)
            accumulator.finish(trial)
            better = np.abs(trial - x) < best
            nearest[better], best = trial[better], np.minimum(best, np.abs(trial - x))
        return self._inner.encode(nearest, bits, key, out)  # grid points are encoded as they are

    def accumulator(self, d: int, key: Key) -> Accumulator:
        return self._inner.accumulator(d, key)


@pytest.mark.parametrize(
    "mistake",
    [
        "weights are 1",
        pytest.param("rounding is to nearest", marks=pytest.mark.slow),
        pytest.param("p is off by 10%", marks=pytest.mark.slow),
    ],
)
def test_the_check_sees_each_mistake(tmp_path: Path, mistake: str) -> None:
    settings, change = config(tmp_path), lambda s: s
    if mistake == "weights are 1":
        change = lambda s: replace(s, code=_CodeWith(s.code, _WeightOne))  # noqa: E731
    elif mistake == "rounding is to nearest":
        change = lambda s: replace(s, quantizer=_Nearest(s.quantizer))  # noqa: E731
    else:
        settings = config(tmp_path, p=tuple(1.1 * m for m in MISS))
    z = z_scores(estimates(settings, tmp_path / "run", change), true_gradient(task()))
    assert np.abs(z).max() > 6


def test_sync_gives_the_gradient_itself(tmp_path: Path) -> None:
    settings = gcdist.Config(
        out=tmp_path,
        cluster={"workers": 3},
        code={"scheme": "sync", "partitions": PARTITIONS},
        quantizer={"name": "float32"},
        straggler={"deadline": "wait"},
    )
    of = task()
    want = true_gradient(of)
    with gcdist.simulate(of, settings, say=lambda kind, text: None) as cluster:
        info = next(cluster.steps(1)).backward()
    got = torch.cat([p.grad.reshape(-1) for p in of.model.parameters() if p.grad is not None]).double().numpy()
    assert info.arrived == (1, 2, 3)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("p", ["model", "measured"])
def test_planned_and_observed_arrival_rates_agree(tmp_path: Path, p: str) -> None:
    # 5 workers, |z| < 4: a right program fails with probability 3e-4; the seed is fixed
    settings = config(tmp_path, p=p)
    settings = settings.model_copy(update={"straggler": settings.straggler.model_copy(update={"warmup_steps": 20})})
    session = Session.build(task(), settings, WORKERS)
    driver, _ = simulated(session, lambda kind, text: None)
    with Cluster(session, driver, RunFolder(tmp_path / "run")) as cluster:
        for step in cluster.steps(400):
            step.backward()
        assert np.abs(cluster.arrivals.sigmas()).max() < 4
        assert cluster.arrivals.steps_N.min() > 300


def test_wrong_arrival_rates_are_seen(tmp_path: Path) -> None:
    session = Session.build(task(), config(tmp_path, p=(0.4, 0.5, 0.55, 0.45, 0.45)), WORKERS)
    driver, _ = simulated(session, lambda kind, text: None)
    with Cluster(session, driver, RunFolder(tmp_path / "run")) as cluster:
        for step in cluster.steps(400):
            step.backward()
        assert np.abs(cluster.arrivals.sigmas()).argmax() == 3
        assert np.abs(cluster.arrivals.sigmas()).max() > 4
