"""Rows of partitions that are remembered: what is sent is right for every set that can be done, whatever is remembered."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gcdist
from gcdist.coding import get_code
from gcdist.config import ConfigError
from gcdist.exchange.shift import decode_row
from gcdist.exchange.sidecar import Sidecar
from gcdist.model.buffer_updates import no_update
from gcdist.model.gradients import PartitionResult
from gcdist.model.vector_format import Shape
from gcdist.protocol.messages import Assignment, Round
from gcdist.quantize import get_quantizer
from gcdist.run.session import Session
from gcdist.types import F32, F64, Layout, RunHaltedError
from gcdist.worker import rows as rows_module
from gcdist.worker.partition_memory import PartitionMemory
from gcdist.worker.rows import RowMaker
from tests.simulator.test_faults_simulated import linear_task

D, SHAPE = 5, Shape(Layout.flat(5))
QUANTIZER = get_quantizer("float32")


def result(partition: int, gradient: F32) -> PartitionResult:
    return PartitionResult(
        step=0,
        partition=partition,
        shape=SHAPE,
        loss=1.0,
        grads=(gradient,),
        sizes=(D,),
        scale=np.float32(1),
        used=np.ones(SHAPE.parameters, bool),
        share=0.1,
        indices=np.zeros(1, np.int64),
        samples=1,
        data_seconds=0.0,
        compute_seconds=0.0,
        cpu_seconds=0.0,
        buffers=no_update(SHAPE),
        name_at=str,
    )


class Known:
    """Gradients that a test has drawn."""

    def __init__(self, g_KD: F32) -> None:
        self.g_KD = g_KD

    def load(self, sent: Round, raw: Any) -> None: ...

    def take(self, sent: Round, raw: Any) -> None: ...

    def compute(self, step: int, partition: int) -> PartitionResult:
        return result(partition, self.g_KD[partition])


def maker(g_KD: F32, parts: tuple[tuple[int, float], ...], plan: int = 0) -> RowMaker:
    made = RowMaker(QUANTIZER, 0, Known(g_KD), PartitionMemory())
    begin(made, parts, plan)
    return made


def begin(made: RowMaker, parts: tuple[tuple[int, float], ...], plan: int = 0, step: int = 0, bits: int = 32) -> None:
    assignment = Assignment((3,), (parts,), ((bits,),), None, True)
    made.begin(Round(step, plan, 0, None, (0,), (0.0,), assignment, 1.0))


def sent(made: RowMaker, done: Any, coefficients: dict[int, float], step: int = 0) -> F64:
    """What a message of these partitions stands for, (d,)."""
    for j in done:
        made.add(step, 3, coefficients[j], made.compute(step, j), 0.1)
    body = made.encode(step, 3, len(coefficients), 0.2)
    out = np.zeros(D, np.float32)
    decode_row(QUANTIZER, SHAPE.layout, body.payload, (32,), 0, step, 3, out)
    return out.astype(np.float64)


@given(st.integers(0, 2**31), st.integers(1, 4), st.data())
@settings(deadline=None, max_examples=40, derandomize=True)
def test_the_mean_over_all_sets_is_the_rows_gradient_less_its_shift(seed: int, m: int, data: st.DataObject) -> None:
    """For every h_j and H: E x = sum a_j g_j - H over the subsets of m, by enumeration."""
    rng = np.random.default_rng(seed)
    g_KD, h_KD = rng.standard_normal((2, 4, D)).astype(np.float32)
    shift = rng.standard_normal(D).astype(np.float32)
    known = data.draw(st.sets(st.integers(0, 3)))  # of the others nothing is remembered
    coefficients = {j: float(a) for j, a in enumerate(rng.uniform(0.2, 1.5, 4))}
    parts = tuple(coefficients.items())
    messages = []
    for done in itertools.combinations(range(4), m):
        made = maker(g_KD, parts)
        made.restore({3: shift}, {j: h_KD[j] for j in known})
        messages.append(sent(made, done, coefficients))
        after = made.remembered()
        assert set(after) == known | set(done)
        assert all(np.array_equal(after[j], g_KD[j] if j in done else h_KD[j]) for j in after)
    y = sum(a * g_KD[j].astype(np.float64) for j, a in parts)
    assert np.mean(messages, axis=0) == pytest.approx(y - shift, abs=2e-5)


def test_once_everything_is_known_a_cut_row_has_no_noise() -> None:
    g_KD = np.random.default_rng(0).standard_normal((4, D)).astype(np.float32)
    ones = dict.fromkeys(range(4), 1.0)
    made = maker(g_KD, tuple(ones.items()))
    sent(made, range(4), ones)
    for step, done in enumerate(itertools.combinations(range(4), 2), 1):
        begin(made, tuple(ones.items()), step=step)
        assert sent(made, done, ones, step) == pytest.approx(g_KD.sum(axis=0), abs=1e-5)


def test_what_a_row_differs_by_is_told_of_the_differences() -> None:
    """`Sidecar.spread` is that of a_j (g_j - h_j): the noise that a cut makes now."""
    g_KD = np.random.default_rng(1).standard_normal((3, D)).astype(np.float32)
    made = maker(g_KD, ((0, 1.0), (1, 1.0), (2, 1.0)))
    made.restore({}, {0: g_KD[0], 1: g_KD[1] - 1, 2: g_KD[2] - 1})
    for j in range(3):
        made.add(0, 3, 1.0, made.compute(0, j), 0.1)
    sidecar = Sidecar.unpack(made.encode(0, 3, 3, 0.2).sidecar)
    terms_PD = np.array([np.zeros(D), np.ones(D), np.ones(D)])
    assert sidecar.spread == pytest.approx(((terms_PD - terms_PD.mean(axis=0)) ** 2).sum() / 2, rel=1e-5)


def test_a_new_plan_forgets_what_it_does_not_hold_and_other_vectors_are_no_memory() -> None:
    g_KD = np.ones((4, D), np.float32)
    made = maker(g_KD, ((0, 1.0), (1, 1.0)))
    sent(made, (0, 1), {0: 1.0, 1: 1.0})
    begin(made, ((1, 1.0), (2, 1.0)), plan=1, step=1)
    assert set(made.remembered()) == {1}
    memory = PartitionMemory()
    memory.restore({1: np.ones(3, np.float32)})
    assert not memory.total(((1, 1.0),), D).any()
    assert memory.vectors() == {}


def test_what_does_not_fit_is_refused_in_one_line() -> None:
    memory = PartitionMemory()
    memory.check_room(range(8), 250, 10_000)
    memory.check_room(range(8), 10**12, None)
    with pytest.raises(
        ValueError, match=r"of each of 8 partitions, 4\.0 GB each: 32\.0 GB more, and 16\.0 GB are free"
    ) as why:
        memory.check_room(range(8), 10**9, 16 * 10**9)
    assert len(str(why.value).splitlines()) == 1


def config(**code: Any) -> gcdist.Config:
    return gcdist.Config(
        cluster={"workers": 3},
        code={"scheme": "partial-memory", "partitions": 6, **code},
        inject={"model": "shifted-exponential", "mean": 0.1, "scale_with_load": True},
        straggler={"deadline": 0.1},
    )


def test_a_run_says_what_it_needs_and_ends_where_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[tuple[str, str]] = []

    def say(kind: str, text: str) -> None:
        lines.append((kind, text))

    with gcdist.simulate(linear_task(), config(), folder=tmp_path / "good", say=say) as cluster:
        for step in cluster.steps(3):
            step.backward()
    assert ("plan", "a worker remembers a gradient of each of its partitions: 64 B for 2, 32 B each") in lines
    monkeypatch.setattr(rows_module, "free_bytes", lambda: 50)
    with gcdist.simulate(linear_task(), config(), folder=tmp_path / "bad", say=say) as cluster:
        step = next(cluster.steps(3))
        with pytest.raises(
            RunHaltedError, match=r"worker [123]: partial-memory keeps a gradient of each of 2 partitions"
        ):
            step.backward()


def test_rows_that_are_not_cut_have_another_scheme() -> None:
    with pytest.raises(ConfigError, match="'partial-memory' is for rows that are cut"):
        Session.build(linear_task(), config(partial=False), 3)
    assert get_code("partial-memory").partial is True
