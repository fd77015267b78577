"""Every code's plan and decoder on small problems: columns, absences, caps, weights, completion."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike
from scipy.sparse import csr_array, csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from gcdist.coding import code_names, get_code
from gcdist.coding.supports import chain
from gcdist.planning import describe, make_plan
from gcdist.types import F64, Closing, Plan, Problem, StepTerms, Use

NOISE = np.array([np.inf, 5.0, 1.0, 0.3, 0.08, 0.02, 0.005, 0.001, 3e-4])


def problem(p: ArrayLike, k: int, bits: float | None = None, **changes: object) -> Problem:
    p_N = np.asarray(p, np.float64)
    n = len(p_N)

    def late(worker: int, loads: F64) -> F64:
        return np.full(len(loads), p_N[worker])

    fields: dict[str, object] = {
        "size_K": np.full(k, 1 / k),
        "late": late,
        "noise": NOISE,
        "bits_total": 4.0 * n if bits is None else bits,
        "bits_cap_N": np.full(n, 8),
        "load_cap_N": np.full(n, np.inf),
    }
    return Problem(**(fields | changes))  # type: ignore[arg-type]


def terms(plan: Plan, p: ArrayLike | None = None) -> StepTerms:
    return StepTerms(1.0, plan.p_R if p is None else np.asarray(p, np.float64))


UNCODED = ("sync", "ignore-rescaled", "memory")


BLOCKS = ("frc", "cyclic", "expander", "adjacency")  # published for as many partitions as workers


@pytest.mark.parametrize("name", code_names())
@pytest.mark.parametrize("k", [1, 3, 4, 9])
def test_columns_sum_to_one_and_absent_rows_are_empty(name: str, k: int) -> None:
    task = problem([0.1, 1.0, 0.4, 0.2, 0.3], k, size_K=np.arange(1.0, k + 1) / (k * (k + 1) / 2))
    if (name in BLOCKS and k < 4 and not (name == "frc" and k == 3)) or (name == "erasurehead" and k == 1):
        with pytest.raises(ValueError, match=f"{name} over 4 workers needs at least"):
            make_plan(get_code(name), task, 7)
        return
    plan = make_plan(get_code(name), task, 7)
    assert plan.plan_id == 7
    if name != "bgc":
        np.testing.assert_allclose(np.asarray(plan.A_RK.sum(axis=0)), 1, rtol=1e-12)
        assert plan.covered_K.all()
    assert plan.parts(1) == ()
    assert plan.bits_RS[1, 0] == 0
    assert plan.bits_RS.sum() <= task.bits_total


@pytest.mark.parametrize("name", UNCODED)
def test_uncoded_deals_partition_i_to_worker_i(name: str) -> None:
    plan = make_plan(get_code(name), problem([0.3, 0.1, 0.2], 3), 0)
    assert np.array_equal(plan.A_RK.toarray(), np.eye(3))
    assert plan.bits_RS.ravel().tolist() == [4, 4, 4]


def test_uncoded_blocks_are_contiguous_balanced_and_capped() -> None:
    plan = make_plan(get_code("sync"), problem([0.3, 0.1, 1.0, 0.2], 11, load_cap_N=np.array([9.0, 2.0, 9.0, 9.0])), 0)
    assert [[j for j, _ in plan.parts(r)] for r in range(4)] == [[0, 1, 2, 3], [4, 5], [], [6, 7, 8, 9, 10]]
    with pytest.raises(ValueError, match="load caps allow 6 of the 11 partitions"):
        make_plan(get_code("sync"), problem([0.1] * 3, 11, load_cap_N=np.full(3, 2.0)), 0)


def test_fewer_partitions_than_workers_go_to_the_most_reliable() -> None:
    plan = make_plan(get_code("sync"), problem([0.3, 0.1, 0.5, 0.2], 2), 0)
    assert np.diff(plan.A_RK.indptr).tolist() == [0, 1, 0, 1]
    assert plan.bits_RS.ravel().tolist() == [0, 8, 0, 8]


def test_holders_are_respected_and_orphans_are_not_covered() -> None:
    holds = csr_array(np.array([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]], np.float64))
    plan = make_plan(get_code("sync"), problem([0.1, 0.1, 1.0], 4, holds_NK=holds), 0)
    assert plan.covered_K.tolist() == [True, True, True, False]
    assert np.asarray(plan.A_RK.sum(axis=0)).tolist() == [1, 1, 1, 0]


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 10))
def test_holders_share_as_evenly_as_a_matching_can(seed: int, n: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    able = rng.random((n, k)) < 0.4
    cap = rng.integers(1, 5, n).astype(np.float64)
    task = problem(np.full(n, 0.2), k, bits=8.0 * n, holds_NK=csr_array(able.astype(np.float64)), load_cap_N=cap)
    reached = able.any(axis=0)

    def possible(level: int) -> bool:
        slots = [i for i in range(n) for _ in range(int(min(cap[i], level)))]
        match = maximum_bipartite_matching(csr_matrix(able[slots][:, reached].astype(np.int8)), perm_type="row")
        return len(slots) > 0 and int((match >= 0).sum()) == int(reached.sum())

    if not reached.any() or not possible(k):
        with pytest.raises(ValueError, match=r"allow no assignment|gets no bits|no usable worker"):
            make_plan(get_code("sync"), task, 0)
        return
    plan = make_plan(get_code("sync"), task, 0)
    assert np.array_equal(plan.covered_K, reached)
    assert not np.any(plan.A_RK.toarray()[~able])
    largest = int(np.diff(plan.A_RK.indptr).max())
    assert not possible(largest - 1)


def test_nobody_there_is_one_clear_line() -> None:
    with pytest.raises(ValueError, match="none of the 2 workers is usable"):
        make_plan(get_code("osgc"), problem([1.0, 1.0], 2), 0)
    with pytest.raises(ValueError, match="gets no bits"):
        make_plan(get_code("sync"), problem([0.1, 0.1], 2, bits=1.0), 0)


def test_wide_quantizer_bits() -> None:
    noise = np.full(33, np.inf)
    noise[[16, 32]] = [1e-6, 0.0]
    task = problem([0.1] * 3, 3, bits=96.0, noise=noise, bits_cap_N=np.full(3, 32))
    assert make_plan(get_code("sync"), task, 0).bits_RS.ravel().tolist() == [32] * 3
    task = problem([0.1] * 3, 3, bits=95.0, noise=noise, bits_cap_N=np.full(3, 32))
    assert make_plan(get_code("sync"), task, 0).bits_RS.ravel().tolist() == [16] * 3


@settings(derandomize=True, deadline=None, max_examples=300)
@given(
    st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=12),
    st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=12),
    st.lists(st.booleans(), min_size=12, max_size=12),
)
def test_chain_has_the_row_and_column_sums(rows: list[float], cols: list[float], empty: list[bool]) -> None:
    size_K = np.array(cols)
    Y_N = np.where(np.array(empty[: len(rows)]), 0.0, np.array(rows))
    Y_N = np.array(rows) if not Y_N.any() else Y_N
    Y_N *= size_K.sum() / Y_N.sum()
    alpha = chain(Y_N, size_K)
    np.testing.assert_allclose(np.asarray(alpha.sum(axis=0)), 1, rtol=1e-12)
    np.testing.assert_allclose(alpha @ size_K, Y_N, atol=1e-10 * size_K.sum())
    assert alpha.data.min() > 0
    assert alpha.nnz <= np.count_nonzero(Y_N) + len(size_K) - 1
    assert np.all(np.diff(alpha.indptr)[Y_N == 0] == 0)


def test_osgc_gives_the_paper_s_error() -> None:
    p = np.array([0.1, 0.3, 0.05, 0.6])
    plan = make_plan(get_code("osgc", allocation="chain"), problem(p, 6), 0)
    cost = p / (1 - p)
    np.testing.assert_allclose(np.asarray(plan.A_RK.sum(axis=1)), 6 / cost / (1 / cost).sum())
    free = problem(p, 6, noise=np.append(np.inf, np.zeros(8)))
    report = describe(make_plan(get_code("osgc"), free, 0), free)
    assert report["F"] == pytest.approx((1 / cost).sum())


def test_osgc_with_a_perfect_worker() -> None:
    plan = make_plan(get_code("osgc"), problem([0.5, 0.0, 0.2], 4), 0)
    assert np.diff(plan.A_RK.indptr).tolist() == [0, 4, 0]
    assert np.asarray(plan.A_RK.sum(axis=1)).tolist() == [0, 4, 0]
    assert plan.bits_RS.ravel().tolist() == [0, 8, 0]


def test_sync_and_memory_weights() -> None:
    for name, beta in (("sync", 0.0), ("memory", 1.0)):
        code = get_code(name)
        plan = make_plan(code, problem([0.1, 1.0, 0.4], 3), 0)
        decoder = code.open(plan, terms(plan))
        assert not decoder.complete()
        assert decoder.arrive(0) == Use(1.0, beta)
        assert decoder.arrive(1) == Use(0.0)
        assert not decoder.complete()
        assert decoder.arrive(2) == Use(1.0, beta)
        assert decoder.complete()
        assert decoder.late(0, 3) == Use(0.0, beta)
        assert decoder.close() == Closing()
    assert get_code("memory").shifted


def test_ignore_rescaled_scales_by_rows_over_arrivals() -> None:
    code = get_code("ignore-rescaled")
    plan = make_plan(code, problem([0.1, 0.2, 0.4], 3), 0)
    decoder = code.open(plan, terms(plan))
    assert decoder.close() == Closing(scale=1.0)
    assert decoder.arrive(2) == Use(1.0)
    assert decoder.close() == Closing(scale=3.0)
    decoder.arrive(0)
    assert decoder.close() == Closing(scale=1.5)
    decoder.arrive(1)
    assert decoder.complete()


def test_osgc_weights_come_from_the_terms() -> None:
    code = get_code("osgc")
    plan = make_plan(code, problem([0.1, 0.2, 0.4], 3), 0)
    decoder = code.open(plan, terms(plan, [0.5, 1.0, 0.2]))
    assert decoder.arrive(1) == Use(0.0)
    assert decoder.arrive(0) == Use(2.0)
    assert not decoder.complete()
    assert decoder.arrive(2) == Use(1.25)
    assert decoder.complete()
    hopeless = code.open(plan, terms(plan, [1.0, 1.0, 1.0]))
    assert not hopeless.complete()
    assert hopeless.arrive(0) == Use(0.0)


def test_unknown_names_suggest() -> None:
    with pytest.raises(ValueError, match=r"code 'osg' is not known: did you mean 'osgc'\? allowed are auto, sync"):
        get_code("osg")
    with pytest.raises(ValueError, match=r"did you mean 'allocation'\?"):
        get_code("osgc", alocation="chain")
    with pytest.raises(ValueError, match="allocation 'chian' is not known"):
        get_code("osgc", allocation="chian")


def test_shifted_weights_and_betas() -> None:
    code, task = get_code("shifted"), problem([0.1, 0.2, 0.4], 3, bits=24.0)
    assert code.shifted
    assert code.unbiased
    plan = make_plan(code, task, 4)
    decoder = code.open(plan, terms(plan, [0.5, 1.0, 0.2]))
    beta = (1 / (1 + NOISE[plan.bits_RS[:, 0]])).tolist()
    assert decoder.arrive(0) == Use(2.0, beta[0])
    assert decoder.arrive(1) == Use(0.0, beta[1])
    assert not decoder.complete()
    assert decoder.late(2, 1) == Use(0.0, beta[2])
    assert decoder.arrive(2).weight == 1.25
    assert decoder.complete()
    assert decoder.close() == Closing()
    with pytest.raises(ValueError, match="plan 4 was not designed here"):
        get_code("shifted").open(plan, terms(plan))
    assert get_code("shifted", beta=0.25).open(plan, terms(plan)).arrive(0).beta == 0.25
    with pytest.raises(ValueError, match="beta 1 is above"):
        make_plan(get_code("shifted", beta=1), problem([0.1, 0.2, 0.4], 3, bits=6.0), 0)
    with pytest.raises(ValueError, match="not for shifted messages"):
        get_code("shifted", decoding="self-normalised")
