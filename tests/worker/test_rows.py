"""Rows: partitions are added as the backward pass left them, bit for bit what vectors in float32 would give."""

from __future__ import annotations

import numpy as np
import pytest

from gcdist.exchange.sidecar import Sidecar
from gcdist.model.gradients import PartitionGradients, PartitionResult, UserCodeError
from gcdist.model.state import ModelState
from gcdist.protocol.messages import Assignment, Round
from gcdist.quantize import get_quantizer
from gcdist.tasks import Task
from gcdist.types import U8
from gcdist.worker.rows import RowMaker
from tests.model.models import Noisy, Rich, fresh, rich_task
from tests.model.test_gradients import failing


class Computed:
    """Gradients of the model as it is."""

    def __init__(self, task: Task) -> None:
        self.gradients = PartitionGradients(task, ModelState(task.model, own=True), 4, 0)

    def load(self, sent: Round, raw: U8) -> None: ...

    def take(self, sent: Round, raw: U8) -> None: ...

    def compute(self, step: int, partition: int) -> PartitionResult:
        return self.gradients.compute(step, partition)


def begun(task: Task, name: str, bits: int, partial: bool = False) -> RowMaker:
    made = Computed(task)
    rows = RowMaker(get_quantizer(name), 0, made)
    segments = made.gradients.state.layout.segments
    parts = ((0, 0.7), (1, -1.3))
    rows.begin(Round(0, 0, 0, None, (0,), (0.0,), Assignment((0,), (parts,), ((bits,) * segments,), partial=partial)))
    return rows


def test_a_row_is_the_sum_of_scaled_gradients_to_the_last_bit() -> None:
    rows = begun(rich_task(), "float32", 32, partial=True)
    results = [rows.compute(0, j) for j in (0, 1)]
    for result, coefficient in zip(results, (0.7, -1.3), strict=True):
        rows.add(0, 0, coefficient, result, 0.0)
    message = rows.encode(0, 0, 2, 0.0)
    first, second = (result.gradient for result in results)
    expected = np.float32(0.7) * first
    expected += np.float32(-1.3) * second
    assert message.payload.tobytes() == expected.tobytes()


@pytest.mark.parametrize(("name", "bits"), [("float32", 32), ("rotated-dither", 4), ("dither", 0)])
@pytest.mark.parametrize("parts", [2, 3])
def test_energies_are_those_of_the_parts_and_of_their_sum(name: str, bits: int, parts: int) -> None:
    rows = begun(rich_task(), name, bits, partial=True)
    vectors = []
    for j, coefficient in ((0, 0.7), (1, -1.3)):
        result = rows.compute(0, j)
        rows.add(0, 0, coefficient, result, 0.0)
        vectors.append(coefficient * result.gradient.astype(np.float64))
    sidecar = Sidecar.unpack(rows.encode(0, 0, parts, 0.0).sidecar)
    assert sidecar.parts_energy == pytest.approx(sum(float(v @ v) for v in vectors), rel=1e-5)
    total = vectors[0] + vectors[1]
    assert sidecar.sum_energy == pytest.approx(float(total @ total), rel=1e-5)


def test_a_gradient_that_is_not_finite_names_its_parameter_and_partition() -> None:
    rows = begun(Task(fresh(Rich), Noisy(), failing("gradient"), batch_size=4), "dither", 4)
    with pytest.raises(UserCodeError, match=r"^the gradient of parameter 'second.bias' is not finite") as caught:
        rows.add(0, 0, 0.7, rows.compute(0, 1), 0.0)
    assert (caught.value.step, caught.value.partition) == (0, 1)


def test_large_finite_gradients_are_no_fault() -> None:
    """Squares overflow float32 from 1.8e19 on."""
    rows = begun(rich_task(), "float32", 32)
    result = rows.compute(0, 0)
    for grad in result.grads:
        if grad is not None:
            grad *= np.float32(1e30)
    rows.add(0, 0, 1.0, result, 0.0)
    assert np.isfinite(rows.encode(0, 0, 1, 0.0).payload.view(np.float32)).all()
