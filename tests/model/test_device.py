"""The device of a worker, as far as it can be tried without a GPU.

`Elsewhere` tensors claim the device "meta" but hold numbers on the CPU; an operation that mixes them with plain tensors
fails, as it would between a GPU and the CPU.
"""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree
from torch.utils.data import TensorDataset

from gcdist.model.device import CPU, device_generator_kept, moved, pick_device, seed_device
from gcdist.model.gradients import PartitionGradients
from gcdist.model.state import ModelState
from gcdist.tasks import Task
from tests.model.models import fresh

THERE = torch.device("meta")
Pair = namedtuple("Pair", ["image", "note"])


@pytest.mark.parametrize(("rank", "index"), [("0", 0), ("2", 2), ("3", 0), ("7", 1), (None, 0)])
def test_workers_of_one_host_share_its_gpus_in_turn(
    monkeypatch: pytest.MonkeyPatch, rank: str | None, index: int
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    place = {} if rank is None else {"LOCAL_RANK": rank}
    assert pick_device("cuda", place) == pick_device("auto", place) == torch.device("cuda", index)
    assert pick_device("cpu", place) == CPU


def test_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == CPU
    with pytest.raises(
        ValueError, match='device: found "cuda"; PyTorch finds no CUDA device here: use "auto" or "cpu"'
    ):
        pick_device("cuda")


def test_a_batch_moves_with_all_that_is_in_it() -> None:
    x = torch.zeros(2)
    packed = nn.utils.rnn.pack_sequence([torch.zeros(3, 1), torch.zeros(2, 1)])
    batch = {"x": [x, (x, 1, "a")], "pair": Pair(x, None), "packed": packed, "array": np.zeros(2)}
    there = moved(batch, THERE)
    assert there["x"][0].device == there["x"][1][0].device == there["pair"].image.device == THERE
    assert there["x"][1][1:] == (1, "a")
    assert isinstance(there["pair"], Pair)
    assert isinstance(there["packed"], nn.utils.rnn.PackedSequence)
    assert there["packed"].data.device == THERE
    assert there["packed"].batch_sizes.device == CPU
    assert there["array"] is batch["array"]
    assert x.device == CPU


def test_the_cpu_has_no_generator_of_its_own_here() -> None:
    before = torch.get_rng_state()
    with device_generator_kept(CPU):
        seed_device(CPU, 0, 2, 3, 4)
    assert torch.equal(torch.get_rng_state(), before)


class Elsewhere(Tensor):
    """A tensor that says it is on THERE; ``inner_numbers`` are its own."""

    inner_numbers: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Elsewhere:
        made: Elsewhere = Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), dtype=inner.dtype, device=THERE, requires_grad=False
        )
        made.inner_numbers = inner
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return run(func, args, kwargs or {})


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation on the numbers; the result is where the arguments were."""
    flat = _pytree.tree_leaves((args, kwargs))
    tensors = [each for each in flat if isinstance(each, Tensor)]
    to = kwargs.get("device")
    there = any(isinstance(each, Elsewhere) for each in tensors)
    copies = func in (
        torch.ops.aten._to_copy.default,
        torch.ops.aten.copy_.default,
        torch.ops.aten._foreach_copy_.default,
    )
    if there and not copies and any(not isinstance(t, Elsewhere) and t.dim() for t in tensors):
        raise RuntimeError(f"{func}: tensors on {THERE} and on the CPU")
    if to is not None:
        kwargs = {**kwargs, "device": CPU}
        there = torch.device(to) == THERE
    inner_args, inner_kwargs = _pytree.tree_map(
        lambda x: x.inner_numbers if isinstance(x, Elsewhere) else x, (args, kwargs)
    )
    out = func(*inner_args, **inner_kwargs)
    if func in (torch.ops.aten.copy_.default, torch.ops.aten._foreach_copy_.default):
        return args[0] if func is torch.ops.aten.copy_.default else None
    return _pytree.tree_map(lambda x: Elsewhere(x) if there and isinstance(x, Tensor) else x, out)


class Intercepted(torch.utils._python_dispatch.TorchDispatchMode):  # type: ignore[no-untyped-call]
    """What asks for THERE gets Elsewhere tensors."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1))


def mean_square(model: nn.Module, batch: Any) -> Tensor:
    return nn.functional.mse_loss(model(batch[0]), batch[1])


def test_a_worker_elsewhere_gives_what_one_on_the_cpu_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gcdist.model.state._check_parameter", lambda name, p: None)  # "meta" is refused
    monkeypatch.setattr("gcdist.model.buffers._check", lambda name, p: None)
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(12, 3, generator=generator), torch.randn(12, 1, generator=generator))
    raw = ModelState(fresh(small, 1), downlink="bfloat16").snapshot()
    results = []
    for there in (False, True):
        model = fresh(small, 2)
        with Intercepted():  # type: ignore[no-untyped-call]
            if there:
                model.to(THERE)
                assert all(isinstance(p.data, Elsewhere) or p.device == THERE for p in model.parameters())
            task = Task(model, data, mean_square, batch_size=4)
            state = ModelState(model, True, "bfloat16", THERE if there else CPU)
            gradients = PartitionGradients(task, state, 3, 0)
            state.load(raw)
            made = [gradients.compute(step, j) for step, j in ((0, 0), (0, 1), (1, 0))]
        results.append([(m.loss, m.gradient.copy(), m.buffers.floats, m.buffers.ints.tolist()) for m in made[-1:]])
    for here, far in zip(*results, strict=True):
        np.testing.assert_allclose(far[0], here[0], rtol=1e-6)
        np.testing.assert_allclose(far[1], here[1], rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(far[2], here[2], rtol=1e-6)
        assert far[3] == here[3]
