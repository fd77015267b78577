"""The baselines of math section 9, decoded as published: exact recovery, unbiasedness where claimed, known biases."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcdist.coding import get_code
from gcdist.coding.base import BaseCode
from gcdist.coding.cyclic import cyclic_matrix
from gcdist.coding.graphs import near_regular_edges
from gcdist.planning import make_plan
from gcdist.types import F64, GradientCode, Plan, Problem, StepTerms


def problem(p: F64, k: int) -> Problem:
    def late(worker: int, loads: F64) -> F64:
        return np.full(len(loads), p[worker])

    n = len(p)
    return Problem(np.full(k, 1 / k), late, np.array([np.inf, 0.0]), 1.0 * n, np.ones(n, np.int64), np.full(n, np.inf))


def decoded(code: GradientCode, plan: Plan, rows: list[int], g_KD: F64, until_complete: bool = False) -> F64:
    """ghat from arrivals in this order, without quantization, through the decoder."""
    y_RD = plan.A_RK @ g_KD
    decoder, added = code.open(plan, StepTerms(1.0, plan.p_R)), np.zeros(g_KD.shape[1])
    for row in rows:
        weight = decoder.arrive(row).weight
        added += 0.0 if weight is None else weight * y_RD[row]
        if until_complete and decoder.complete():
            break
    closing = decoder.close()
    ghat = closing.scale * added
    for row, weight in closing.kept:
        ghat = ghat + weight * y_RD[row]
    return np.asarray(ghat, np.float64)


@pytest.mark.parametrize(
    ("name", "n", "s"),
    [
        ("frc", 6, 1),
        ("frc", 6, 2),
        ("frc", 8, 3),
        ("cyclic", 5, 0),
        ("cyclic", 5, 1),
        ("cyclic", 6, 2),
        ("cyclic", 7, 2),
        ("cyclic", 6, 3),
        ("cyclic", 4, 0),
    ],
)
@pytest.mark.parametrize("blocks", [1, 3])
def test_exact_from_every_pattern_of_s_stragglers(name: str, n: int, s: int, blocks: int) -> None:
    rng = np.random.default_rng(n)
    code = get_code(name, s=s)
    plan = make_plan(code, problem(rng.uniform(0.1, 0.6, n), blocks * n), 0)
    g = rng.normal(size=(blocks * n, 4))
    for lost in itertools.combinations(range(n), s):
        rows = rng.permutation([r for r in range(n) if r not in lost]).tolist()
        np.testing.assert_allclose(decoded(code, plan, rows, g, until_complete=True), g.sum(axis=0), atol=1e-8)


@pytest.mark.parametrize(
    ("name", "options"), [("frc", {"s": 1}), ("frc", {"s": 3}), ("cyclic", {"s": 1}), ("cyclic", {"s": 3})]
)
def test_exact_as_far_as_those_who_are_left_allow(name: str, options: dict[str, int]) -> None:
    rng = np.random.default_rng(3)
    n, code = 8, get_code(name, **options)
    assert isinstance(code, BaseCode)
    g = rng.normal(size=(2 * n, 4))
    for left in range(n - 1, 0, -1):
        p = np.ones(n)
        here = np.sort(rng.choice(n, left, replace=False))
        p[here] = 0.3
        plan = make_plan(code, problem(p, 2 * n), 0)
        s = min(options["s"], left - 1)
        assert (code.lacking(left) is None) == (s == options["s"])
        for lost in itertools.combinations(here.tolist(), s):
            rows = rng.permutation([r for r in here.tolist() if r not in lost]).tolist()
            np.testing.assert_allclose(decoded(code, plan, rows, g, until_complete=True), g.sum(axis=0), atol=1e-8)


@pytest.mark.parametrize("name", ["bgc", "sgc", "expander", "adjacency", "erasurehead"])
@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_a_code_has_a_plan_for_whoever_is_left(name: str, n: int) -> None:
    if n < 3 and name in ("expander", "adjacency"):
        with pytest.raises(ValueError, match=r"no simple graph|needs 1 <= r"):
            make_plan(get_code(name), problem(np.full(n, 0.1), 2 * n), 0)
        return
    for left in range(1, n):
        p = np.where(np.arange(n) < left, 0.1, 1.0)
        plan = make_plan(get_code(name), problem(p, 2 * n), 0)
        covered = np.unique(plan.A_RK.indices)
        assert len(covered) == 2 * n or name == "bgc", left
        assert not np.diff(plan.A_RK.indptr)[left:].any()


@pytest.mark.parametrize("s", [10, 11])
def test_cyclic_at_n_50(s: int) -> None:
    rng = np.random.default_rng(s)
    code = get_code("cyclic", s=s)
    plan = make_plan(code, problem(rng.uniform(0.1, 0.6, 50), 50), 0)
    assert set(np.diff(plan.A_RK.indptr).tolist()) == {s + 1}
    g = rng.normal(size=(50, 4))
    for _ in range(200):
        rows = rng.permutation(50)[s:].tolist()
        np.testing.assert_allclose(decoded(code, plan, rows, g), g.sum(axis=0), atol=1e-6)


def test_exact_codes_wait_until_decodable() -> None:
    for name, n, s in (("frc", 6, 2), ("cyclic", 6, 2)):
        code = get_code(name, s=s)
        plan = make_plan(code, problem(np.full(n, 0.3), n), 0)
        decoder = code.open(plan, StepTerms(1.0, plan.p_R))
        for row in (0, 1, 2):  # one group of frc, and too few of cyclic
            decoder.arrive(row)
            assert not decoder.complete()
        decoder.arrive(3)
        assert decoder.complete()
    with pytest.raises(ValueError, match=r"s \+ 1 to divide the 6 usable workers: s = 3"):
        make_plan(get_code("frc", s=3), problem(np.full(6, 0.3), 6), 0)


@pytest.mark.parametrize("name", ["osgc", "joint", "sgc", "self-normalised"])
def test_unbiased_codes_are_unbiased_by_enumeration(name: str) -> None:
    rng = np.random.default_rng(7)
    p = rng.uniform(0.1, 0.8, 6)
    code = get_code(name)
    plan = make_plan(code, problem(p, 9), 0)
    g = rng.normal(size=(9, 3))
    mean, some = np.zeros(3), 0.0
    for pattern in itertools.product([False, True], repeat=6):
        chance = float(np.prod(np.where(pattern, 1 - p, p)))
        if any(pattern) or name != "self-normalised":
            mean += chance * decoded(code, plan, np.flatnonzero(pattern).tolist(), g)
            some += chance
    np.testing.assert_allclose(mean / some, g.sum(axis=0), atol=1e-9)


@pytest.mark.parametrize("name", ["ignore", "ignore-rescaled", "bgc", "erasurehead", "expander", "adjacency"])
def test_biased_codes_are_biased_as_said(name: str) -> None:
    rng = np.random.default_rng(8)
    p = np.array([0.05, 0.1, 0.3, 0.5, 0.7, 0.8])
    code = get_code(name)
    assert not code.unbiased
    plan = make_plan(code, problem(p, 6), 0)
    g = rng.normal(size=(6, 3))
    mean = np.zeros(3)
    for pattern in itertools.product([False, True], repeat=6):
        chance = float(np.prod(np.where(pattern, 1 - p, p)))
        mean += chance * decoded(code, plan, np.flatnonzero(pattern).tolist(), g)
    assert np.linalg.norm(mean - g.sum(axis=0)) > 0.01 * np.linalg.norm(g.sum(axis=0))
    if name == "ignore":
        np.testing.assert_allclose(mean, (1 - p) @ g, atol=1e-12)


@pytest.mark.parametrize("name", ["expander", "adjacency"])
def test_graph_codes_recover_everything_when_all_arrive(name: str) -> None:
    rng = np.random.default_rng(9)
    code = get_code(name, r=3)
    plan = make_plan(code, problem(np.full(12, 0.3), 24), 0)
    g = rng.normal(size=(24, 3))
    np.testing.assert_allclose(decoded(code, plan, list(range(12)), g), g.sum(axis=0), atol=1e-9)
    assert code.open(plan, StepTerms(1.0, plan.p_R)).close().kept == ()


@pytest.mark.parametrize("name", ["expander", "adjacency"])
def test_large_least_squares_agrees_with_the_dense_solution(name: str) -> None:
    rng = np.random.default_rng(10)
    n = 400
    code = get_code(name, r=3)
    plan = make_plan(code, problem(np.full(n, 0.3), n), 0)
    rows = np.flatnonzero(rng.random(n) >= 0.3)
    decoder = code.open(plan, StepTerms(1.0, plan.p_R))
    for row in rows:
        decoder.arrive(int(row))
    arrived = plan.A_RK[rows].toarray()
    best = np.linalg.lstsq(arrived.T, np.ones(n), rcond=None)[0]
    weights = np.array([weight for _, weight in decoder.close().kept])
    np.testing.assert_allclose(arrived.T @ weights, arrived.T @ best, atol=1e-6)


def test_bgc_leaves_about_exp_minus_r_uncovered() -> None:
    plan = make_plan(get_code("bgc", r=2, seed=1), problem(np.full(50, 0.3), 4000), 0)
    share = 1 - plan.covered_K.mean()
    # binomial share of 4000 at (1 - 2/50)^50 = 0.130: 5 standard deviations, below 1e-6
    assert abs(share - 0.96**50) < 5 * np.sqrt(0.13 * 0.87 / 4000)


def test_sgc_puts_each_partition_on_r_workers() -> None:
    plan = make_plan(get_code("sgc", r=3), problem(np.array([0.3, 0.2, 1.0, 0.5, 0.1]), 40), 0)
    assert np.bincount(plan.A_RK.indices).tolist() == [3] * 40
    assert np.all(plan.A_RK.data == 1 / 3)
    assert plan.parts(2) == ()


def test_erasurehead_stops_at_m_workers() -> None:
    code = get_code("erasurehead", r=2, stop=2)
    plan = make_plan(code, problem(np.full(6, 0.3), 6), 0)
    decoder = code.open(plan, StepTerms(1.0, plan.p_R))
    assert decoder.arrive(0).weight == 2.0
    assert not decoder.complete()
    assert decoder.arrive(1).weight == 0.0
    assert decoder.complete()


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.integers(2, 30), st.integers(1, 6), st.integers(0, 1000))
def test_graphs_are_simple_and_near_regular(vertices: int, degree: int, seed: int) -> None:
    edges = vertices * min(degree, vertices - 1) // 2
    pairs = near_regular_edges(vertices, edges, seed)
    assert len({tuple(sorted(pair)) for pair in pairs.tolist()}) == edges
    assert np.all(pairs[:, 0] != pairs[:, 1])
    count = np.bincount(pairs.ravel(), minlength=vertices)
    assert np.ptp(count) <= 1


def test_cyclic_matrix_spans_one_from_any_n_minus_s_rows() -> None:
    for n, s in ((5, 2), (6, 2), (7, 3), (8, 4)):
        B = cyclic_matrix(n, s, 1)
        np.testing.assert_allclose(B.sum(axis=0), 1, atol=1e-9)
        for lost in itertools.combinations(range(n), s):
            rest = np.delete(B, lost, axis=0)
            weights = np.linalg.lstsq(rest.T, np.ones(n), rcond=None)[0]
            np.testing.assert_allclose(rest.T @ weights, 1, atol=1e-8)
