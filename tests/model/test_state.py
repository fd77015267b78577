"""Parameters and buffers as bytes: what a snapshot carries, what the vector holds, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gcdist.model.buffer_updates import BufferUpdate
from gcdist.model.state import Downlink, ModelState
from tests.model.models import Rich, fresh


@pytest.mark.parametrize("own_out", [False, True])
@pytest.mark.parametrize("own_in", [False, True])
def test_a_snapshot_carries_everything(own_out: bool, own_in: bool) -> None:
    source = fresh(Rich, 1)
    with torch.no_grad():
        source(torch.randn(8, 4, generator=torch.Generator().manual_seed(0)))
    sender, receiver = ModelState(source, own=own_out), ModelState(fresh(Rich, 2), own=own_in)
    raw = sender.snapshot()
    assert raw.nbytes == sender.nbytes == receiver.nbytes
    receiver.load(raw)
    for (name, a), (_, b) in zip(source.state_dict().items(), receiver.model.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
        assert a.dtype == b.dtype
    out = np.ones(receiver.nbytes, np.uint8)
    assert receiver.snapshot(out) is out
    again = ModelState(fresh(Rich, 3))
    again.load(out)
    assert again.snapshot().tobytes() == raw.tobytes()
    with pytest.raises(ValueError, match=f"has {sender.nbytes} bytes, found shape"):
        receiver.load(raw[:-8])


def test_the_vector_holds_trainable_parameters_once_and_in_order() -> None:
    model = fresh(Rich)
    state = ModelState(model)
    assert state.names == ["first.weight", "first.bias", "norm.weight", "norm.bias", "second.weight", "second.bias"]
    assert state.layout.d == 24 + 6 + 6 + 6 + 24 + 4
    assert state.layout.edges.tolist() == [0, 24, 30, 36, 42, 66, 70]  # no quantizer's scale crosses one
    flat = state.snapshot()[: 4 * state.layout.d].view(np.float32)
    np.testing.assert_array_equal(flat[:24], model.get_parameter("first.weight").detach().numpy().ravel())
    assert [state.name_at(i) for i in (0, 23, 24, 69)] == ["first.weight", "first.weight", "first.bias", "second.bias"]


def test_owned_parameters_stay_tied_and_trainable() -> None:
    model = fresh(Rich)
    ModelState(model, own=True)
    assert model.get_submodule("tied").weight is model.get_submodule("second").weight
    assert model.get_parameter("first.weight").is_leaf
    assert model.get_parameter("first.weight").requires_grad


def test_fingerprint_is_of_the_structure_and_of_frozen_values() -> None:
    reference = ModelState(fresh(Rich, 1)).layout.fingerprint
    assert len(reference) == 16
    assert ModelState(fresh(Rich, 2), own=True).layout.fingerprint == reference

    def changed(change: Callable[[Any], Any]) -> str:
        model = fresh(Rich)
        change(model)
        return ModelState(model).layout.fingerprint

    others = [
        changed(lambda m: m.frozen.data.add_(1e-3)),
        changed(lambda m: m.first.bias.requires_grad_(False)),
        changed(lambda m: setattr(m, "second", nn.Linear(6, 4))),  # untied
        changed(lambda m: m.register_buffer("one_more", torch.zeros(1))),
        changed(lambda m: setattr(m, "wide", m.wide.float())),
        changed(lambda m: setattr(m, "first", nn.Linear(4, 6, bias=False))),
    ]
    assert len({reference, *others}) == 7


def add_buffer(tensor: torch.Tensor) -> nn.Module:
    model = nn.Linear(2, 2)
    model.register_buffer("extra", tensor)
    return model


@pytest.mark.filterwarnings("ignore:Lazy modules", "ignore:Sparse")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Linear(2, 2).requires_grad_(False), "Linear has no parameter with requires_grad"),
        (lambda: nn.ReLU(), "ReLU has no parameter with requires_grad"),
        (lambda: nn.LazyLinear(2), "parameter 'weight' has no shape yet"),
        (lambda: nn.Linear(2, 2, device="meta"), r"parameter 'weight' is torch.float32 \(torch.strided, meta\)"),
        (lambda: nn.Linear(2, 2, dtype=torch.complex64), "parameter 'weight' is torch.complex64"),
        (
            lambda: nn.ParameterList([torch.zeros(2, 2).to_sparse()]),
            r"parameter '0' is torch.float32 \(torch.sparse_coo",
        ),
        (
            lambda: nn.ParameterList([torch.zeros(2).to(torch.float8_e5m2)]),
            "'0' is torch.float8_e5m2: only float32, bf",
        ),
        (lambda: add_buffer(torch.zeros(1, dtype=torch.complex64)), "buffer 'extra' is torch.complex64"),
        (lambda: add_buffer(torch.zeros(2, 2).to_sparse()), "buffer 'extra' is torch.float32 .* only dense real ones"),
    ],
)
def test_refuses_models(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelState(make())


# --- dtypes -----------------------------------------------------------------------------------------------------------


class Mixed(nn.Module):
    """A parameter of each dtype that can be trained, and integer buffers of several."""

    def __init__(self) -> None:
        super().__init__()
        dtypes = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
        self.each = nn.ParameterList([torch.randn(3, dtype=torch.float64).to(dtype) for dtype in dtypes])
        self.register_buffer("small", torch.arange(3, dtype=torch.uint8))
        self.register_buffer("large", torch.tensor([2**40]))
        self.register_buffer("flags", torch.tensor([True, False, True]))
        self.register_buffer("odd", torch.tensor([7, -7], dtype=torch.int16))


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("downlink", ["float32", "bfloat16"])
def test_all_dtypes_travel(own: bool, downlink: Downlink) -> None:
    master, worker = fresh(Mixed, 1), fresh(Mixed, 2)
    out, back = ModelState(master, downlink=downlink), ModelState(worker, own, downlink)
    raw = out.snapshot()
    width = 4 if downlink == "float32" else 2
    assert raw.nbytes == width * 12 + 8 + 2 * 2 + 3 + 3  # each integer buffer in its own dtype
    worker.get_buffer("flags").zero_()
    back.load(raw)
    for p, q in zip(master.parameters(), worker.parameters(), strict=True):
        assert q.dtype == p.dtype
        assert torch.equal(q, (p.float() if downlink == "float32" else p.bfloat16()).to(p.dtype))
    for b, c in zip(master.buffers(), worker.buffers(), strict=True):
        assert torch.equal(b, c)
        assert b.dtype == c.dtype


def test_a_float64_parameter_keeps_its_digits_at_the_master() -> None:
    model = nn.Linear(1, 1, bias=False).double()
    state = ModelState(model)
    torch.nn.init.constant_(model.weight, 1 + 2.0**-40)
    state.set_grad(np.array([0.5], np.float32))
    assert model.weight.grad is not None
    assert model.weight.grad.dtype == torch.float64
    torch.optim.SGD(model.parameters(), lr=2.0**-39).step()
    assert model.weight.item() == 1.0
    assert state.snapshot()[:4].view(np.float32).item() == 1.0


@pytest.mark.parametrize("shape", [(1,), (5,), (1000, 7)])
def test_a_worker_has_torch_s_own_bfloat16_rounding_of_the_master_s_values(shape: tuple[int, ...]) -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, shape, np.uint32)  # every kind of float: tiny, huge, ties
    bits.reshape(-1)[0] = 0x3F808000  # half way between two bfloat16 values: the even one is taken
    values = torch.from_numpy(np.nan_to_num(bits.view(np.float32), nan=1.0, posinf=2.0, neginf=3.0))
    master, worker = (nn.ParameterList([v]) for v in (values.clone(), torch.zeros(shape)))
    state = ModelState(master, downlink="bfloat16")
    back = ModelState(worker, True, "bfloat16")
    assert state.nbytes == -(-values.numel() * 2 // 8) * 8
    back.load(state.snapshot())
    assert torch.equal(worker[0].detach(), values.bfloat16().float())
    assert worker[0].reshape(-1)[0].item() == 1.0
    assert torch.equal(master[0].detach(), values)  # the master's own keep their digits


# --- parameters that are unfrozen later -------------------------------------------------------------------------------


def staged(seed: int = 0) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(torch.full_like(p, float(i + 1)) if i < 2 else torch.full_like(p, float(seed)))
    model[0].requires_grad_(False)
    return model


@pytest.mark.parametrize("own", [False, True])
def test_an_unfrozen_parameter_joins_the_vector_and_stays(own: bool) -> None:
    model, other = staged(5), staged(6)
    master, worker = ModelState(model), ModelState(other, own)
    weight, theirs = model.get_parameter("0.weight"), other.get_parameter("0.weight")
    start = master.shape
    assert (start.trained, start.parameters, master.layout.d) == (None, 2, 4)
    assert not master.grow()
    assert master.shape is start
    weight.requires_grad_(True)
    assert master.grow()
    assert master.names == ["0.weight", "1.weight", "1.bias"]
    assert (master.shape.trained, master.layout.d) == ((0, 2, 3), 10)
    assert master.layout.fingerprint == start.layout.fingerprint == worker.fingerprint
    with torch.no_grad():
        weight.fill_(9.0)
    worker.adopt(master.shape.trained)
    worker.load(master.snapshot())
    assert [p.requires_grad for p in other.parameters()] == [True, False, True, True]
    assert theirs.max().item() == 9.0
    assert other.get_parameter("1.bias").item() == 5.0
    weight.requires_grad_(False)
    assert not master.grow()  # it never shrinks
    master.set_grad(np.ones(10, np.float32))
    assert weight.grad is None
    assert model.get_parameter("1.bias").grad is not None
    worker.adopt(None)  # an older round, or another master: the start's values come back
    assert [p.requires_grad for p in other.parameters()] == [False, False, True, True]
    assert theirs.max().item() == 1.0
    assert (worker.shape.trained, worker.layout.d) == (None, 4)


def test_a_checkpoint_s_names_are_taken_in_before_the_first_step() -> None:
    state = ModelState(staged())
    assert state.grow(["0.bias", "1.bias"])
    assert state.names == ["0.bias", "1.weight", "1.bias"]
    with pytest.raises(ValueError, match=r"Sequential has no parameter '2\.bias'"):
        state.grow(["2.bias"])


@pytest.mark.parametrize("trained", [(0,), (1, 2), (2, 3, 4), (3, 2), (0, 0, 2, 3)])
def test_a_vector_that_the_model_cannot_have_is_refused(trained: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="no vector of this model"):
        ModelState(staged(), own=True).adopt(trained)


def test_a_parameter_that_was_replaced_is_named() -> None:
    model = staged()
    state = ModelState(model)
    model.load_state_dict(staged(3).state_dict())
    assert not state.grow()
    model.load_state_dict(staged(3).state_dict(), assign=True)
    with pytest.raises(ValueError, match=r"parameter '0.weight' was replaced .* without assign=True"):
        state.grow()


# --- gradients and buffers --------------------------------------------------------------------------------------------


def test_gradients_are_views_and_none_where_the_model_gives_none() -> None:
    model = nn.Linear(2, 2)
    state = ModelState(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    before = state.snapshot()[:24].view(np.float32).copy()
    g = np.arange(6, dtype=np.float32)
    state.set_grad(g, np.array([True, False]))
    assert model.weight.grad is not None
    assert model.weight.grad.tolist() == [[0, 1], [2, 3]]
    assert model.weight.grad.data_ptr() == g.ctypes.data
    assert model.bias.grad is None
    optimizer.step()
    np.testing.assert_array_equal(
        state.snapshot()[:24].view(np.float32), before - np.array([0, 1, 2, 3, 0, 0], np.float32)
    )
    model.bias.requires_grad_(False)
    state.set_grad(g)
    assert model.bias.grad is None


def test_buffers_are_averaged_by_share_and_counters_take_the_maximum() -> None:
    state = ModelState(nn.BatchNorm1d(1))
    f32, i64, u8 = np.float32, np.int64, np.uint8
    state.merge_buffers([])

    def update(share: float, floats: list[float], count: int) -> BufferUpdate:
        return BufferUpdate(np.full(3, share), np.array(floats, f32), np.array([count], i64).view(u8))

    state.merge_buffers([update(0.1, [1, 4], 5), update(0.3, [3, 0], 300)])
    np.testing.assert_allclose(state.model.get_buffer("running_mean"), [2.5], rtol=1e-7)
    assert state.model.get_buffer("running_var").item() == 1.0
    assert state.model.get_buffer("num_batches_tracked").item() == 300
