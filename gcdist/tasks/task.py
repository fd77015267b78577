"""The adapter for anybody's model, data set and loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.utils.data import IterableDataset, default_collate

from gcdist.tasks.loss import BatchLoss, read_loss, wants_step
from gcdist.tasks.partition import Partitioner, contiguous
from gcdist.types import I64

LossFn: TypeAlias = Callable[..., Any]  # (model, batch) or (model, batch, *, step); see `read_loss`
Evaluate: TypeAlias = Callable[[nn.Module], dict[str, float]]


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """A training task: a model, a data set, a loss.

    Args:
        model: the module; the gradient has its trainable parameters.
        dataset: map-style: ``len(dataset)`` and ``dataset[i]``; ``__getitems__(indices)`` is used where it exists.
        loss_fn: ``loss_fn(model, batch)`` gives the mean loss of the batch: a 0-dim tensor, or a dict of them to be summed;
            ``(loss, {"accuracy": ...})`` and ``{"loss": loss, "accuracy": ...}`` report numbers beside it; None: the batch
            has nothing to train on. A parameter ``step`` of it gets the step's number.
        batch_size: samples of one partition in one step (all of them, if the partition has fewer).
        collate_fn: makes a batch of a list of samples; None: ``torch.utils.data.default_collate``.
        partitioner: ``partitioner(dataset, k)`` gives k arrays of sample indices; None: `contiguous`; see `partition_by`.
            Samples in no partition are not trained on.
        evaluate: ``evaluate(model)`` gives the held-out metrics that the command line prints.
        holds: the partitions, of 0..k-1, that this process can read, for data that stays on its node; None: all of them.
            Each rank gives its own; ``len(dataset)`` and the partitions are the same in all processes.
        origin: the name that settings call it by; None: a script has built it.

    Raises:
        ValueError: an argument breaks a rule above.
    """

    model: nn.Module
    dataset: Any
    loss_fn: LossFn
    batch_size: int = 16
    collate_fn: Callable[[list[Any]], Any] | None = None
    partitioner: Partitioner | None = None
    evaluate: Evaluate | None = None
    holds: Iterable[int] | None = None
    origin: str | None = None
    _wants_step: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.model, nn.Module):
            raise ValueError(f"Task.model must be a torch.nn.Module, found {_kind(self.model)}")
        _check_dataset(self.dataset)
        if type(self.batch_size) is not int or self.batch_size < 1:
            raise ValueError(f"Task.batch_size must be an integer >= 1, found {self.batch_size!r}")
        if not callable(self.loss_fn):
            raise ValueError(f"Task.loss_fn must be callable as loss_fn(model, batch), found {_kind(self.loss_fn)}")
        for name in ("collate_fn", "partitioner", "evaluate"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise ValueError(f"Task.{name} must be callable or None, found {_kind(value)}")
        if self.holds is not None:
            object.__setattr__(self, "holds", check_holds("Task.holds", self.holds))
        object.__setattr__(self, "_wants_step", wants_step(self.loss_fn))

    def partitions(self, k: int) -> list[I64]:
        """The ``k`` partitions: one array of sample indices (int64) each, disjoint and none empty.

        Raises:
            ValueError: ``k`` is not in 1..len(dataset), or the partitioner's answer breaks a rule.
        """
        samples = len(self.dataset)
        if not 1 <= k <= samples:
            raise ValueError(f"partitions must be between 1 and the data set's {samples} samples, found {k}")
        if self.partitioner is None:
            return contiguous(self.dataset, k)
        answer = list(self.partitioner(self.dataset, k))
        if len(answer) != k:
            raise ValueError(f"partitioner: {k} partitions were asked for, found {len(answer)}")
        parts = [_indices(j, part, samples) for j, part in enumerate(answer)]
        everything = np.concatenate(parts)
        counts = np.bincount(everything, minlength=samples)
        if counts.max() > 1:
            index = int(counts.argmax())
            owners = [j for j, part in enumerate(parts) if index in part]
            where = f"partitions {owners[0]} and {owners[1]}" if len(owners) > 1 else f"partition {owners[0]} twice"
            raise ValueError(f"partitioner: sample {index} is in {where}, every sample may be in one partition once")
        return parts

    def batch(self, samples: list[Any]) -> Any:
        """Collate ``samples`` into a batch."""
        return default_collate(samples) if self.collate_fn is None else self.collate_fn(samples)

    def losses(self, model: nn.Module, batch: Any, step: int) -> BatchLoss:
        """The mean loss of ``batch`` in ``step``, and its metrics; see `read_loss`.

        Raises:
            ValueError: ``loss_fn`` gave something else.
        """
        return read_loss(self.loss_fn(model, batch, step=step) if self._wants_step else self.loss_fn(model, batch))

    def loss(self, model: nn.Module, batch: Any, step: int = 0) -> Tensor:
        """The mean loss of ``batch`` as one 0-dim floating-point tensor.

        Raises:
            ValueError: ``loss_fn`` gave something else, or None.
        """
        loss = self.losses(model, batch, step).loss
        if loss is None:
            raise ValueError("loss_fn gave None: the batch has nothing to train on")
        return loss


def _kind(value: object) -> str:
    return type(value).__name__


def _check_dataset(dataset: Any) -> None:
    if isinstance(dataset, IterableDataset):
        raise ValueError(
            "Task.dataset is an IterableDataset, which can only be read from its start: every worker must be able to read "
            "any sample of any partition at any step; give a map-style data set (__len__ and __getitem__)"
        )
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise ValueError(f"Task.dataset must be map-style (__len__ and __getitem__), found {_kind(dataset)}")
    if len(dataset) == 0:
        raise ValueError("Task.dataset is empty")


def _indices(j: int, part: ArrayLike, samples: int) -> I64:
    indices = np.asarray(part)
    if indices.size == 0:
        raise ValueError(f"partitioner: partition {j} is empty, every partition must hold at least one sample")
    if indices.ndim != 1 or indices.dtype.kind not in "iu":
        raise ValueError(
            f"partitioner: partition {j} must be a 1-dim array of integers, found {indices.dtype} of shape {indices.shape}"
        )
    outside = (indices < 0) | (indices >= samples)
    if outside.any():
        bad = int(indices[outside.argmax()])
        raise ValueError(f"partitioner: partition {j} holds index {bad}, allowed are 0 to {samples - 1}")
    return indices.astype(np.int64)


def check_holds(what: str, holds: Iterable[int]) -> tuple[int, ...]:
    """The readable partitions, in order; ValueError if there are none, one is below 0 or comes twice."""
    found = list(holds)
    if not found:
        raise ValueError(f"{what}: found no partition; a worker that can read nothing has nothing to do")
    for j in found:
        if isinstance(j, bool) or not isinstance(j, (int, np.integer)) or j < 0:
            raise ValueError(f"{what}: found {j!r}; should be numbers of partitions, from 0 on")
    held = sorted({int(j) for j in found})
    if len(held) < len(found):
        twice = next(j for j in held if found.count(j) > 1)
        raise ValueError(f"{what}: partition {twice} comes twice")
    return tuple(held)
