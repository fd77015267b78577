"""Changes of the model by the training loop that no worker can see: the run names each in a line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

PLAIN = (bool, int, float, str)
MOST_TOLD = 3  # attributes in one line


class ModelWatch:
    """Plain attributes of the master's modules: numbers, text, train or eval mode. They do not travel to the workers."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._before = dict(_attributes(model))
        self._told: set[str] = set()

    def standing(self) -> str | None:
        """A line about the model as it is at the start, or None."""
        sparse = [
            name
            for name, module in self._model.named_modules()
            if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and module.sparse
        ]
        if not sparse:
            return None
        return (
            f"{sparse[0] or type(self._model).__name__} has sparse=True: its gradient comes back dense, and SparseAdam does "
            "not take it (Adam, Adagrad and SGD do)"
        )

    def changed(self) -> str | None:
        """A line about attributes that the loop has changed since the start; each is named once."""
        new = []
        for name, value in _attributes(self._model):
            before = self._before.get(name, _Missing)
            if name not in self._told and (type(before), before) != (type(value), value):
                self._told.add(name)
                new.append(f"{name} = {value!r}" + ("" if before is _Missing else f" (was {before!r})"))
        if not new:
            return None
        more = f" and {len(new) - MOST_TOLD} more" if len(new) > MOST_TOLD else ""
        return (
            f"attributes of the model changed at the master, and workers do not see it: {', '.join(new[:MOST_TOLD])}{more}; "
            "a buffer travels, and a loss function with a parameter step gets the step's number"
        )

    def accept(self) -> None:
        """Take the present attributes as the right ones: an evaluation may count something in them."""
        self._before.update(_attributes(self._model))


class _Missing:
    pass


def _attributes(model: nn.Module) -> Iterator[tuple[str, Any]]:
    for prefix, module in model.named_modules():
        for key, value in module.__dict__.items():
            if type(value) in PLAIN and (not key.startswith("_")):
                yield (f"{prefix}.{key}" if prefix else key), value
