"""Cut rows at both ends, over random schedules of cuts, losses, re-joins and plans: h moves by what both ends know."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcdist.exchange.message import Message
from gcdist.exchange.shift import decode_row
from gcdist.master.aggregator import Aggregator
from gcdist.protocol.master_io import Accumulate
from gcdist.protocol.messages import Head
from gcdist.protocol.order import partition_order
from gcdist.quantize import get_quantizer
from gcdist.types import F32, Closing, Use
from gcdist.worker.partition_memory import PartitionMemory
from gcdist.worker.rows import RowMaker
from tests.worker.test_partition_memory import SHAPE, D, Known, begin

BETA = 0.25
PLANS = (((0, 1.0), (1, 0.5), (2, 1.0), (3, 0.25)), ((1, 0.5), (4, 1.0), (5, 1.0)))
Step = tuple[int, int, str]  # plan, partitions done, fate

steps_st = st.lists(
    st.tuples(st.integers(0, 1), st.integers(1, 4), st.sampled_from(("counted", "late", "lost", "rejoin", "restart"))),
    min_size=1,
    max_size=12,
)


class BothEnds:
    """One worker with row 3 and its master, without a network."""

    def __init__(self, quantizer: str, bits: int, seed: int) -> None:
        self.rng, self.seed, self.bits = np.random.default_rng(seed), seed, bits
        self.quantizer = get_quantizer(quantizer)
        self.aggregator = Aggregator(SHAPE, self.quantizer, seed)
        self.grads: F32 = self.rng.standard_normal((6, D)).astype(np.float32)
        self.memory = PartitionMemory()
        self.rows = self.new_worker()

    def new_worker(self) -> RowMaker:
        return RowMaker(self.quantizer, self.seed, Known(self.grads), self.memory)

    def message(self, step: int, plan: int, done: int) -> tuple[Head, Message, list[int]]:
        """A cut row as its worker sends it, and the prefix that it must be."""
        parts = PLANS[plan]
        begin(self.rows, parts, plan, step, self.bits)
        order = partition_order(self.seed, step, 3, parts)[:done]
        for j, a in order:
            self.rows.add(step, 3, a, self.rows.compute(step, j), 0.1)
        body = self.rows.encode(step, 3, len(parts), 0.2)
        return Head(step, plan, 3, len(order), 0, len(body.payload)), body, [j for j, _ in order]

    def equal(self) -> bool:
        mine, theirs = self.rows.shift_of(3), self.aggregator.shift_of(3)
        nothing = np.zeros(D, np.float32)
        return np.array_equal(nothing if mine is None else mine, nothing if theirs is None else theirs)


@pytest.mark.parametrize(("quantizer", "bits"), [("float32", 32), ("dither", 4), ("rotated-dither", 3)])
@settings(max_examples=60)
@given(schedule=steps_st, seed=st.integers(0, 1000))
def test_both_ends_hold_the_same_shift_whatever_happens(
    quantizer: str, bits: int, schedule: list[Step], seed: int
) -> None:
    ends = BothEnds(quantizer, bits, seed)
    for step, (plan, done, fate) in enumerate(schedule):
        if fate in ("rejoin", "restart"):  # a link that broke: both ends forget h; h_j stays, unless the process is new
            ends.aggregator.take_out(3)
            ends.rows.zero(3)
            if fate == "restart":
                ends.memory = PartitionMemory()
                ends.rows = ends.new_worker()
        before = ends.aggregator.shift_of(3)
        before = np.zeros(D, np.float32) if before is None else before.copy()
        ends.aggregator.open(step)
        head, body, prefix = ends.message(step, plan, min(done, len(PLANS[plan])))
        if fate == "lost":
            ends.rows.discard(3)
            assert ends.equal()
            continue
        checked = ends.aggregator.checked(head, body, (bits,), SHAPE, prefix)
        late, beta = fate == "late", BETA * head.done / len(PLANS[plan])
        ends.aggregator.accumulate(Accumulate(step, 3, checked, Use(None if late else 1.25, beta), late))
        ends.rows.commit(3, beta)
        assert ends.equal()
        estimate = ends.aggregator.close(Closing())
        assert len(ends.aggregator.counted) == (not late)
        x = np.zeros(D, np.float32)
        decode_row(ends.quantizer, SHAPE.layout, body.payload, (bits,), seed, step, 3, x)
        wanted = before + (0 if late else np.float32(1.25) * x)
        assert np.allclose(0 if estimate is None else estimate, wanted, atol=1e-5)  # H as it was, and the message once


@given(seed=st.integers(0, 1000), plan=st.integers(0, 1), done=st.integers(1, 4), data=st.data())
def test_only_the_first_partitions_of_the_order_are_taken(seed: int, plan: int, done: int, data: st.DataObject) -> None:
    ends = BothEnds("float32", 32, seed)
    ends.aggregator.open(0)
    head, body, prefix = ends.message(0, plan, min(done, len(PLANS[plan])))
    ends.aggregator.checked(head, body, (32,), SHAPE, prefix)
    other = data.draw(st.permutations([j for j, _ in PLANS[plan]]))[: data.draw(st.integers(1, len(PLANS[plan])))]
    if other != prefix:
        with pytest.raises(ValueError, match=r"it holds partitions .*, must hold"):
            ends.aggregator.checked(head, body, (32,), SHAPE, other)
