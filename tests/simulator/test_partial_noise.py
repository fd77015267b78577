"""The error of cut rows is that of math section 10, with real gradients: planned, observed and measured agree.

Delays are exponential and in proportion to the load, so that the number m of partitions that are done by the cut takes every
value from 1 to l. Means of 2,000 rounds; their standard errors are 2 to 3%, and 10% is more than three of them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gcdist.master.driver import MasterDriver
from gcdist.master.noise_estimates import signal_and_energy
from gcdist.master.round_result import RoundResult
from gcdist.master.scheme import Scheme
from gcdist.observe import RunFolder
from gcdist.quantize.grid import measure
from gcdist.run.cluster import Cluster
from gcdist.run.session import Session
from gcdist.simulator.world import simulated
from gcdist.types import F64
from tests.simulator.test_partial_unbiased import MISS, WORKERS, config
from tests.simulator.test_unbiased import DEADLINE, ROUNDS, task, true_gradient


def vectors(session: Session) -> F64:
    """The gradient of every partition, scaled to its share of the samples, (K, d)."""
    session.state.load(session.state.snapshot())
    rows = [session.gradients.compute(0, j).gradient.copy() for j in range(len(session.sizes_K))]
    return np.stack(rows).astype(np.float64)


def excess(load: int, miss: float) -> float:
    """``E[l^2/m - l | m >= 1]`` where the r-th partition is done at r times an exponential time."""
    mean = -DEADLINE / np.log(miss)
    at_least = np.append(1 - np.exp(-DEADLINE / (np.arange(1, load + 1) * mean)), 0.0)  # P(m >= 1), .., P(m >= l), 0
    chance = (at_least[:-1] - at_least[1:]) / at_least[0]
    return float(sum(c * (load * load / m - load) for m, c in enumerate(chance, 1)))


def test_planned_observed_and_real_errors_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session.build(task(), config(tmp_path), WORKERS)
    v_KD, g_D = vectors(session), true_gradient(task())
    driver, _ = simulated(session, lambda kind, text: None)
    real: list[float] = []
    observed: list[float] = []
    promised: list[F64] = []
    done: set[int] = set()
    with Cluster(session, driver, RunFolder(tmp_path / "run")) as cluster:
        noise = cluster._scheme.maker.noise
        run_round = MasterDriver.run_round

        def watched(self: MasterDriver, step: int, scheme: Scheme) -> RoundResult:
            result = run_round(self, step, scheme)
            if result.gradient is not None:
                observed.append(measure(result.gradient)[1] - signal_and_energy(result, cluster._scheme.maker.noise)[0])
            else:
                observed.append(0.0)
            assert result.terms.excess_R is not None
            promised.append(result.terms.excess_R)
            done.update(len(counted.sidecar.parts_P4) for counted in result.counted)
            return result

        monkeypatch.setattr(MasterDriver, "run_round", watched)
        for step in cluster.steps(ROUNDS):
            step.backward()
            grads = [p.grad for p in session.task.model.parameters()]
            pairs = zip(session.state.parameters, grads, strict=True)
            flat = torch.cat([torch.zeros(p.numel()) if g is None else g.reshape(-1) for p, g in pairs])
            real.append(float(np.sum((flat.double().numpy() - g_D) ** 2)))
        plan = cluster.plan
    assert plan is not None
    planned = 0.0
    for row in range(plan.rows):
        y = sum(a * v_KD[j] for j, a in plan.parts(row))
        terms = np.stack([a * v_KD[j] for j, a in plan.parts(row)])
        load, p, omega = len(terms), MISS[row], float(noise[plan.bits_RS[row]].mean())
        spread = float(np.sum((terms - y / load) ** 2)) / (load - 1)
        planned += (p + omega) / (1 - p) * float(y @ y) + (1 + omega) / (1 - p) * excess(load, p) * spread
        late = np.array([each[row] for each in promised[ROUNDS // 10 :]])
        assert late.mean() == pytest.approx(excess(load, p), rel=0.1)
    assert done == set(range(1, int(np.diff(plan.A_RK.indptr).max()) + 1))
    assert np.mean(real) == pytest.approx(planned, rel=0.1)
    assert np.mean(observed) == pytest.approx(planned, rel=0.1)
