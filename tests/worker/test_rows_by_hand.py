"""Rows at a worker by hand: the coded sum, the scaled sum of a cut row, the shift, and what travels beside."""

from __future__ import annotations

import numpy as np
import pytest

from gcdist.exchange.message import Message
from gcdist.exchange.shift import decode_row
from gcdist.exchange.sidecar import Sidecar
from gcdist.model.gradients import PartitionResult
from gcdist.protocol.messages import Round
from gcdist.quantize import get_quantizer
from gcdist.types import F32, U8, Layout
from gcdist.worker.rows import RowMaker
from tests.worker.results import D, a_round, result

SEED = 3


class NoGradients:
    """Rows are given results by hand."""

    def load(self, sent: Round, raw: U8) -> None: ...

    def take(self, sent: Round, raw: U8) -> None: ...

    def compute(self, step: int, partition: int) -> PartitionResult:
        raise AssertionError("results are given by hand")


def rows(name: str = "float32") -> RowMaker:
    return RowMaker(get_quantizer(name), SEED, NoGradients())


def decoded(message: Message, step: int = 0, bits: int = 32, name: str = "float32") -> F32:
    out = np.zeros(D, np.float32)
    decode_row(get_quantizer(name), Layout.flat(D), message.payload, (bits,), SEED, step, 0, out)
    return out


def test_a_row_is_the_coded_sum_and_its_sidecar_tells_each_partition() -> None:
    maker = rows()
    maker.begin(a_round(0, {2: 0.5, 5: -2.0}))
    maker.add(0, 0, 0.5, result(2, [1, 2, 3, 4]), 0.1)
    maker.add(0, 0, -2.0, result(5, [1, 0, 0, 1], samples=0), 0.4)
    message = maker.encode(0, 0, 2, 0.5)
    assert decoded(message).tolist() == [-1.5, 1.0, 1.5, 0.0]
    sidecar = Sidecar.unpack(message.sidecar)
    # a batch with nothing to train on has no share: its loss does not count
    assert sidecar.parts_P4.tolist() == [[2.0, 1.0, 0.125, 0.1], [5.0, 2.5, 0.0, 0.4]]
    assert (sidecar.compute_seconds, sidecar.data_seconds, sidecar.cpu_seconds) == (2.0, 0.5, 1.5)
    assert (sidecar.row_seconds, sidecar.error, sidecar.used.tolist()) == (0.5, 0.0, [True, False])
    assert sidecar.energy == pytest.approx(1.5**2 + 1 + 1.5**2)
    assert sidecar.metrics_P == ({"acc": 0.5}, {"acc": 0.5})


def test_a_cut_row_is_scaled_to_all_of_it_and_knows_how_its_parts_differ() -> None:
    maker = rows()
    maker.begin(a_round(0, {0: 1.0, 1: 1.0, 2: 1.0, 3: 1.0}, partial=True))
    maker.add(0, 0, 1.0, result(0, [1, 0, 0, 0]), 0.1)
    maker.add(0, 0, 1.0, result(3, [0, 1, 0, 0]), 0.2)
    message = maker.encode(0, 0, 4, 0.2)
    assert decoded(message).tolist() == [2.0, 2.0, 0.0, 0.0]  # 4/2 of the sum
    sidecar = Sidecar.unpack(message.sidecar)
    assert (sidecar.parts_energy, sidecar.sum_energy, sidecar.spread) == (2.0, 2.0, 1.0)


def test_the_shift_moves_by_what_the_master_took() -> None:
    maker, y = rows("bucket"), [1.0, -2.0, 3.0, 0.5]
    maker.begin(a_round(0, {0: 1.0}, bits=8))
    maker.add(0, 0, 1.0, result(0, y), 0.1)
    first = decoded(maker.encode(0, 0, 1, 0.1), bits=8, name="bucket")
    assert maker.awaits_verdict(0)
    maker.commit(0, 0.5)
    h = maker.shift_of(0)
    assert h is not None
    assert h.tolist() == (np.float32(0.5) * first).tolist()
    assert not maker.awaits_verdict(0)
    maker.begin(a_round(1, {0: 1.0}, bits=8, shift=1))
    maker.add(1, 0, 1.0, result(0, y), 0.1)
    second = maker.encode(1, 0, 1, 0.1)
    assert Sidecar.unpack(second.sidecar).energy == pytest.approx(
        float(np.sum((np.array(y, np.float32) - h) ** 2)), rel=1e-6
    )
    maker.discard(0)
    assert maker.shift_of(0) is h  # as before: the message did not count
    maker.zero(0)
    assert maker.shift_of(0) is None


def test_a_new_round_drops_what_was_in_the_making() -> None:
    maker = rows()
    maker.begin(a_round(0, {0: 1.0}))
    maker.add(0, 0, 1.0, result(0, [1, 1, 1, 1]), 0.1)
    maker.begin(a_round(1, {0: 1.0}))
    with pytest.raises(ValueError, match="row 0 of step 0 has nothing to encode"):
        maker.encode(0, 0, 1, 0.1)


def test_a_sum_that_is_not_finite_names_the_parameter() -> None:
    maker = rows("bucket")
    maker.begin(a_round(0, {0: 1.0}, bits=4))
    maker.add(0, 0, 2.0, result(0, [1, 1, 3e38, 1]), 0.1)
    with pytest.raises(ValueError, match="the coded gradient is not finite in weight, coordinate 2"):
        maker.encode(0, 0, 1, 0.1, lambda at: f"weight, coordinate {at}")


def test_a_probe_has_a_sidecar_and_no_payload() -> None:
    maker = rows()
    maker.begin(a_round(0, {0: 0.0}, bits=0))
    maker.add(0, 0, 0.0, result(0, [1, 1, 1, 1]), 0.1)
    message = maker.encode(0, 0, 1, 0.1)
    assert len(message.payload) == 0
    assert Sidecar.unpack(message.sidecar).compute_seconds == 1.0
