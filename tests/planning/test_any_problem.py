"""Any problem gives a valid plan with a working decoder, or one line that says why not; never another exception."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.sparse import csr_array

from gcdist.coding import code_names, get_code
from gcdist.planning import describe, make_plan
from gcdist.types import F64, GradientCode, Problem, StepTerms


def random_problem(rng: np.random.Generator) -> Problem:
    n, k = int(rng.integers(1, 9)), int(rng.integers(1, 14))
    p_N = rng.choice([0.0, 1.0, 0.3, rng.random(), 1e-9, 0.999999], n)
    slope = float(rng.choice([0.0, 0.0, 0.05]))

    def late(worker: int, loads: F64) -> F64:
        return np.asarray(np.minimum(1.0, p_N[worker] + slope * (loads - 1)), np.float64)

    noise = np.append(np.inf, np.sort(rng.exponential(1, 8))[::-1])
    if rng.random() < 0.2:
        noise[rng.integers(1, 9)] = np.inf
    if rng.random() < 0.2:
        noise[8] = 0.0
    size_K = rng.dirichlet(np.ones(k)) + 0.01 if rng.random() < 0.5 else np.ones(k)
    return Problem(
        size_K=size_K / size_K.sum(),
        late=late,
        noise=noise,
        bits_total=float(rng.choice([0, 1, n, 3 * n, 100])),
        bits_cap_N=rng.integers(0, 9, n) if rng.random() < 0.3 else np.full(n, 8),
        load_cap_N=rng.choice([np.inf, 1, 2, 5, k], n) if rng.random() < 0.3 else np.full(n, np.inf),
        holds_NK=csr_array((rng.random((n, k)) < 0.6).astype(np.float64)) if rng.random() < 0.3 else None,
    )


def random_code(rng: np.random.Generator) -> GradientCode:
    name = str(rng.choice(code_names()))
    if name not in ("osgc", "joint", "self-normalised"):
        return get_code(name)
    options: dict[str, object] = {
        "allocation": str(rng.choice(["chain", "full", "replicated:2", "star", "papers-chain"])),
        "allow_negative": bool(rng.random() < 0.5),
        "decoding": str(rng.choice(["inverse", "self-normalised", "predictor"])),
    }
    if name != "osgc":
        options["solver"] = str(rng.choice(["auto", "envelope", "waterfill"]))
    return get_code(name, **options)


@pytest.mark.parametrize("seed", range(4))
def test_a_plan_or_one_line(seed: int) -> None:
    rng, planned = np.random.default_rng(seed), 0
    for _ in range(300):
        task, code = random_problem(rng), random_code(rng)
        said = ""
        try:
            plan = make_plan(code, task, 1)
        except ValueError as error:
            said = str(error)
        if said:
            assert "\n" not in said
            continue
        planned += 1
        bits_R = plan.bits_RS[:, 0].astype(np.int64)
        assert bits_R.sum() <= task.bits_total
        assert np.all(bits_R <= task.bits_cap_N)
        assert np.all(np.isfinite(task.noise[bits_R[bits_R > 0]]))
        json.dumps(describe(plan, task), allow_nan=False)
        decoder = code.open(plan, StepTerms(1.0, plan.p_R))
        for row in rng.permutation(task.n):
            if plan.weighted_R()[row] and rng.random() < 0.7:
                decoder.arrive(int(row))
                decoder.complete()
        closing = decoder.close()
        assert np.isfinite([closing.scale, closing.predicted, *(w for _, w in closing.kept)]).all()
    assert planned > 50
