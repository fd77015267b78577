"""Batches of a loader process need no descriptor for small tensors, and none at all where there is none left."""

from __future__ import annotations

import errno
import pickle
from multiprocessing.reduction import ForkingPickler
from typing import Any

import pytest
import torch

from gcdist.model.batch_pickles import SHARED_BYTES, pickled


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.uint8, torch.complex64]
)
def test_small_tensors_come_as_they_are(dtype: torch.dtype) -> None:
    values = torch.arange(12).reshape(3, 4).to(dtype)
    batch: dict[str, Any] = {
        "plain": values,
        "turned": values.T,
        "one": values[0, 1],
        "none": values[:0],
        "more": [values, (values[::2],)],
    }
    found: Any = pickle.loads(pickled(batch))
    assert found["plain"].dtype == dtype
    for name in ("plain", "turned", "one", "none"):
        assert found[name].shape == batch[name].shape
        assert torch.equal(found[name], batch[name])
    assert torch.equal(found["more"][1][0], values[::2])
    found["plain"][0, 0] = 1  # it can be written to


def shared(monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> list[int]:
    """Tensors that torch's own way was asked for; it fails with ``error``."""
    sizes: list[int] = []

    def reduce(storage: Any) -> Any:
        sizes.append(storage.nbytes())
        if error is not None:
            raise error
        return bytes, (b"shared",)

    reducers: dict[type, Any] = vars(ForkingPickler)["_extra_reducers"]
    monkeypatch.setitem(reducers, torch.UntypedStorage, reduce)
    monkeypatch.setitem(reducers, torch.Tensor, lambda tensor: reduce(tensor.untyped_storage()))
    return sizes


def test_only_large_tensors_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = shared(monkeypatch, None)
    large = torch.zeros(SHARED_BYTES // 4)
    pickled([torch.zeros(3), large, torch.zeros(SHARED_BYTES // 4 - 1)])
    assert sizes == [SHARED_BYTES]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EMFILE, "Too many open files"),
        RuntimeError("unable to allocate shared memory(shm): No space left"),
    ],
)
def test_what_cannot_be_shared_comes_by_value(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    sizes = shared(monkeypatch, error)
    large = torch.arange(SHARED_BYTES // 4, dtype=torch.float32)
    (found,) = pickle.loads(pickled([large]))
    assert sizes == [SHARED_BYTES]
    assert torch.equal(found, large)
