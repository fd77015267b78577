"""Buffers: what forward passes may do to them, and what comes of several of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import gcdist
from gcdist.model.buffer_updates import BufferUpdate, merged
from gcdist.model.gradients import PartitionGradients, UserCodeError
from gcdist.model.state import ModelState
from gcdist.model.vector_format import Shape
from gcdist.types import Layout

INT64, UINT8, BOOL = np.dtype(np.int64), np.dtype(np.uint8), np.dtype(bool)


class Model(nn.Module):
    """One weight and whatever buffers a test needs."""

    def __init__(self, do: Callable[[Any], None], **buffers: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=not name.startswith("cache"))
        self.do = do

    def forward(self, x: Tensor) -> Tensor:
        self.do(self)
        return self.weight * x


def gradients(model: nn.Module, partitions: int = 2) -> PartitionGradients:
    data = TensorDataset(torch.arange(8.0))
    task = gcdist.Task(model, data, lambda m, batch: m(batch[0]).mean(), batch_size=4)
    return PartitionGradients(task, ModelState(model, own=True), partitions, 0)


def nothing(model: Any) -> None:
    pass


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int32, torch.uint8, torch.bool])
def test_a_buffer_that_nobody_changed_travels_back_to_nobody(dtype: torch.dtype) -> None:
    value = torch.tensor([1.0, 1 / 3, 0.0], dtype=torch.float64).to(dtype)
    made = gradients(Model(nothing, still=value.clone()))
    result = made.compute(0, 0)
    assert result.buffers.shares_B.tolist() == [0.0]
    assert result.buffers.floats.size == result.buffers.ints.size == 0
    master = Model(nothing, still=value.clone())
    ModelState(master).merge_buffers([result.buffers, result.buffers])
    assert torch.equal(master.get_buffer("still"), value)  # all digits of float64 too


def test_minus_infinity_in_a_mask_stays_what_it_is() -> None:
    """`inf-mask-buffer`: a worker of two partitions averaged -inf with -inf by their difference."""
    mask = torch.full((3, 3), -torch.inf).triu(1)

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(3)
            self.register_buffer("mask", mask.clone())

        def forward(self, x: Tensor) -> Tensor:
            h = self.norm(self.q(x.view(-1, 3, 4)))
            out: Tensor = ((h @ h.transpose(1, 2) + self.get_buffer("mask")).softmax(-1) @ h).mean((1, 2))
            return out

    torch.manual_seed(0)
    model = Attention()
    data = TensorDataset(torch.randn(32, 12))
    task = gcdist.Task(model, data, lambda m, batch: m(batch[0]).square().mean(), batch_size=4)
    config = gcdist.Config(cluster={"workers": 2}, checkpoint={"keep": 0})
    with gcdist.simulate(task, config, say=lambda kind, text: None) as cluster:
        losses = [step.backward().loss for step in cluster.steps(3)]
    assert all(loss is not None and np.isfinite(loss) for loss in losses)
    assert torch.equal(model.get_buffer("mask"), mask)
    assert model.get_buffer("norm.num_batches_tracked").item() == 3


SHAPE = Shape(Layout.flat(1), float_sizes=(2, 3), kinds=((INT64, 1), (BOOL, 2)))


def update(shares: list[float], floats: list[float], number: list[int], flags: list[bool]) -> BufferUpdate:
    ints = np.concatenate([np.array(number, np.int64).view(np.uint8), np.array(flags, bool).view(np.uint8)])
    return BufferUpdate(np.array(shares), np.array(floats, np.float32), ints)


def test_equal_values_stay_to_the_last_bit() -> None:
    odd = np.array([-0.0, np.inf, -np.inf, np.nan, 1e-45], np.float32)
    odd.view(np.uint32)[3] |= 5  # a not-a-number of somebody's own
    updates = [BufferUpdate(np.full(4, share), odd, np.zeros(10, np.uint8)) for share in (0.07, 0.3, 0.11)]
    assert merged(updates, SHAPE).floats.tobytes() == odd.tobytes()
    pair = merged([merged(updates[:2], SHAPE), updates[2]], SHAPE)  # as a worker's row and then the master do it
    assert pair.floats.tobytes() == odd.tobytes()
    np.testing.assert_allclose(pair.shares_B, 0.48)


def test_only_those_that_changed_a_buffer_have_a_say_in_it() -> None:
    one = update([0.1, 0, 0.1, 0.1], [1, np.inf], [3], [False, True])
    two = update([0.3, 0.3, 0, 0.3], [5, 2, 7, 8, 9], [], [False, False])
    both = merged([one, two], SHAPE)
    np.testing.assert_allclose(both.shares_B, [0.4, 0.3, 0.1, 0.4])
    np.testing.assert_allclose(both.floats, [4, np.inf, 7, 8, 9])
    assert both.ints[:8].view(np.int64).tolist() == [3]
    assert both.ints[8:].view(bool).tolist() == [False, True]
    assert merged([], SHAPE).shares_B.tolist() == [0, 0, 0, 0]


def test_the_order_and_grouping_of_updates_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        updates = []
        for _ in range(4):
            shares = rng.random(4) * (rng.random(4) < 0.6)
            floats, ints = SHAPE.update_sizes(shares)
            counts = rng.integers(0, 9, 8 * (shares[2] > 0) // 8).astype(np.int64).view(np.uint8)
            flags = rng.integers(0, 2, 2 * (shares[3] > 0)).astype(np.uint8)
            raw = np.concatenate([counts, flags])
            assert len(raw) == ints
            updates.append(BufferUpdate(shares, rng.standard_normal(floats).astype(np.float32), raw))
        whole = merged(updates, SHAPE)
        parts = merged([merged(updates[2:], SHAPE), merged(updates[:2], SHAPE)], SHAPE)
        np.testing.assert_allclose(whole.shares_B, parts.shares_B, rtol=1e-12)
        np.testing.assert_allclose(whole.floats, parts.floats, rtol=1e-5, atol=1e-6)
        assert whole.ints.tobytes() == parts.ints.tobytes()
        assert (len(whole.floats), len(whole.ints)) == SHAPE.update_sizes(whole.shares_B)


def test_a_pointer_that_goes_round_in_a_circle_comes_back() -> None:
    def turn(model: Any) -> None:
        model.pointer = (model.pointer + 1) % 3
        model.first.fill_(False)

    def build() -> nn.Module:
        return Model(turn, pointer=torch.tensor([2]), first=torch.tensor([True]))

    master, made = build(), gradients(build())
    ModelState(master).merge_buffers([made.compute(0, j).buffers for j in (0, 1)])
    assert master.get_buffer("pointer").item() == 0  # and not the larger 2 of before
    assert not master.get_buffer("first").item()


# --- what a forward pass may do, and what is refused in the step in which it does it -----------------------------------


def replace_by_equal_kind(model: Any) -> None:
    model.value = model.value + 1


def grow(model: Any) -> None:
    model.value = torch.cat([model.value, model.value])


def change_type(model: Any) -> None:
    model.value = model.value.double()


def drop(model: Any) -> None:
    model.value = None


def delete(model: Any) -> None:
    del model.value


def fill(model: Any) -> None:
    model.empty = torch.zeros(2)


def add(model: Any) -> None:
    if not hasattr(model, "late"):
        model.register_buffer("late", torch.zeros(2))


def add_parameter(model: Any) -> None:
    if not hasattr(model, "layer"):
        model.layer = nn.Linear(1, 1)


REFUSED: list[tuple[Callable[[Any], None], str]] = [
    (grow, r"buffer 'value' was torch.float32 of shape \(1,\) and has become torch.float32 of shape \(2,\)"),
    (change_type, r"buffer 'value' was torch.float32 .* has become torch.float64"),
    (drop, r"buffer 'value' was .* has become None"),
    (delete, r"buffer 'value' was .* has become None"),
    (fill, r"buffer 'empty' came with the forward pass"),
    (add, r"buffer 'late' came with the forward pass"),
    (add_parameter, r"parameter 'layer.weight' came with the forward pass, and nobody would train it"),
]


def build(do: Callable[[Any], None]) -> nn.Module:
    return Model(do, value=torch.ones(1), empty=None)


def test_a_new_tensor_of_the_same_kind_is_the_buffers_new_value() -> None:
    result = gradients(build(replace_by_equal_kind)).compute(0, 0)
    assert result.buffers.floats.tolist() == [2.0]


@pytest.mark.parametrize(("do", "text"), REFUSED)
def test_what_no_other_process_can_follow_is_named(do: Callable[[Any], None], text: str) -> None:
    with pytest.raises(UserCodeError, match=text) as caught:
        gradients(build(do)).compute(0, 0)
    assert caught.value.of_model
    assert "\n" not in caught.value.text


def test_it_halts_the_run_in_its_first_step() -> None:
    data = TensorDataset(torch.arange(8.0))
    task = gcdist.Task(build(grow), data, lambda m, batch: m(batch[0]).mean(), batch_size=2)
    config = gcdist.Config(cluster={"workers": 2}, checkpoint={"keep": 0})
    with gcdist.simulate(task, config, say=lambda kind, text: None) as cluster:
        first = next(cluster.steps(9))
        with pytest.raises(gcdist.RunHaltedError, match=r"cannot be trained as it is: worker \d: .*'value' was"):
            first.backward()


def test_a_cache_is_its_process_s_own() -> None:
    def cache(model: Any) -> None:
        if len(model.cache) < 8:
            model.cache = torch.arange(8.0)
        model.cache_later = torch.zeros(3)
        if not hasattr(model, "cache_new"):
            model.register_buffer("cache_new", torch.zeros(2), persistent=False)

    model = Model(cache, cache=torch.zeros(0), cache_later=None, value=torch.ones(1))
    made = gradients(model)
    for j in (0, 1, 0):
        assert made.compute(0, j).buffers.shares_B.tolist() == [0.0, 0.0]
    assert len(model.get_buffer("cache")) == 8  # it need not be made again in every step
    before = ModelState(Model(nothing, cache=torch.zeros(0), cache_later=None, value=torch.ones(1)))
    assert made.state.snapshot().tobytes() == before.snapshot().tobytes()
