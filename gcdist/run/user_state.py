"""The user's part of a checkpoint: the model, tracked parts, the global generators."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from numpy.random import mtrand
from torch import nn

from gcdist.run.nested_state import Tensors, pack

COMPILED = "_orig_mod."  # what torch.compile puts into the names of a module


@runtime_checkable
class Stateful(Protocol):
    """What PyTorch's optimizers and schedulers are: state out, state in."""

    def state_dict(self) -> Any:
        """The state."""
        ...

    def load_state_dict(self, state_dict: Any) -> Any:
        """Take the state."""
        ...


def model_state(model: nn.Module) -> tuple[Tensors, dict[str, Any]]:
    """The model's ``state_dict`` as tensors that share no memory, and what it needs besides.

    Names are those of the plain module, without what `torch.compile` adds. Besides: buffers that are not persistent, a
    module's own extra state, and which parameters require a gradient.
    """
    tensors: Tensors = {}
    extra: dict[str, Any] = {}
    for name, value in model.state_dict().items():
        name = name.replace(COMPILED, "")
        if isinstance(value, torch.Tensor):
            tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        else:
            extra[name] = value
    buffers = {name.replace(COMPILED, ""): b for name, b in model.named_buffers()}
    return tensors, {
        "extra": extra,
        "buffers": {name: b for name, b in buffers.items() if name not in tensors},
        "trains": [name.replace(COMPILED, "") for name, p in model.named_parameters() if p.requires_grad],
    }


def check_model(model: nn.Module) -> None:
    """Whether a checkpoint can keep the model's own extra state; ValueError: one line that names the module's."""
    for name, value in model.state_dict().items():
        if not isinstance(value, torch.Tensor):
            pack(value, name.replace(COMPILED, ""))


def load_model(model: nn.Module, tensors: Tensors, besides: Mapping[str, Any], travels: frozenset[str]) -> None:
    """Put what `model_state` gave back into the model, in place.

    Args:
        model: built as it was for the run's first start.
        tensors: its ``state_dict``.
        besides: what came with it.
        travels: parameters that the master sends to the workers; the others must be what every process has built.

    Raises:
        ValueError: the model is another one, or a frozen parameter has another value than in the checkpoint: one line.
    """
    names = {name.replace(COMPILED, ""): name for name in model.state_dict()}
    given: dict[str, Any] = {**tensors, **besides["extra"]}
    if differs := sorted(set(names) ^ set(given)):
        where = "the checkpoint" if differs[0] in given else "the model"
        raise ValueError(f"the checkpoint is of another model: only {where} has {differs[0]!r}")
    for name, p in model.named_parameters():
        plain = name.replace(COMPILED, "")
        if plain not in given:
            continue  # shared, and kept under its other name
        if given[plain].shape != p.shape:
            shapes = f"{tuple(given[plain].shape)} in the checkpoint, {tuple(p.shape)} in the model"
            raise ValueError(f"the checkpoint is of another model: {plain!r} has shape {shapes}")
        if plain not in travels and not torch.equal(given[plain].to(p.device, p.dtype), p.detach()):
            raise ValueError(
                f"frozen parameter {plain!r} has another value than in the checkpoint, and workers have their own: build "
                "the model with the values that the run began with"
            )
    try:
        model.load_state_dict({names[name]: value for name, value in given.items()})
    except RuntimeError as error:
        line = " ".join(str(error).split())
        raise ValueError(f"the checkpoint is of another model: {line}") from None
    buffers = {name.replace(COMPILED, ""): b for name, b in model.named_buffers()}
    with torch.no_grad():
        for name, value in besides["buffers"].items():
            if name not in buffers or buffers[name].shape != value.shape:
                raise ValueError(f"the checkpoint is of another model: buffer {name!r} does not fit")
            buffers[name].copy_(value)
    trains = set(besides["trains"])
    for name, p in model.named_parameters():
        p.requires_grad_(name.replace(COMPILED, "") in trains)


class Parts:
    """The user's tracked parts, by name.

    Args:
        resumed: their states in the checkpoint that the run goes on from.
        kinds: their types there, by name; a checkpoint of an older version does not say.
    """

    def __init__(self, resumed: Mapping[str, Any] | None = None, kinds: Mapping[str, str] | None = None) -> None:
        self._parts: dict[str, Stateful | dict[Any, Any]] = {}
        self._waiting = dict(resumed or {})
        self._kinds = dict(kinds or {})
        self._resumed = resumed is not None

    @property
    def tracked(self) -> Mapping[str, Stateful | dict[Any, Any]]:
        """The parts, by name."""
        return self._parts

    def add(self, name: str, part: Stateful | dict[Any, Any]) -> str | None:
        """Track a part; load its state if the run is resumed. Returns a line for the log if something is not as expected.

        A part of another type than in the checkpoint is refused; if it has a true attribute ``begins_anew``, it does.

        Raises:
            ValueError: not a part, a name in use, state that cannot be kept, or that does not fit.
        """
        if not isinstance(part, dict | Stateful):
            raise ValueError(
                f"track: {name} is of type {type(part).__name__}; should have state_dict and load_state_dict, or be a dict"
            )
        if isinstance(part, torch.optim.SparseAdam):
            raise ValueError(
                f"track: {name} is of type SparseAdam, which takes sparse gradients only; those of sparse embeddings come "
                "back dense: take Adam, Adagrad or SGD"
            )
        if self._parts.get(name, part) is not part:
            raise ValueError(f"track: there is another {name!r} already")
        pack(_state_of(part), name)  # what cannot be kept is said here, not at the first checkpoint
        self._parts[name] = part
        if not self._resumed:
            return None
        if name not in self._waiting:
            return f"{name} is not in the checkpoint: it begins anew"
        state = self._waiting.pop(name)
        other = self._other_kind(name, part, state)
        if other is not None and getattr(part, "begins_anew", False):
            return f"{name} is {_kind(part)}, the checkpoint has one of {other}: it begins anew"
        if other is not None:
            raise ValueError(
                f"track: {name} is of type {_kind(part)}, the checkpoint has one of {other}: give the same, or track it "
                "under another name, and it begins anew"
            )
        if isinstance(part, dict):
            part.clear()
            part.update(state)
            return None
        before = _settings(part)
        try:
            part.load_state_dict(state)
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            raise ValueError(f"track: {name}'s state in the checkpoint does not fit: {error}") from error
        return _stays(name, before, _settings(part))

    def _other_kind(self, name: str, part: Stateful | dict[Any, Any], state: Any) -> str | None:
        """The type of the checkpoint's part, if it is another one."""
        was = self._kinds.get(name)
        if was is not None:
            return None if was == _kind(part) else was
        if not isinstance(part, dict) and isinstance(state, dict):
            groups = zip(part.state_dict().get("param_groups", ()), state.get("param_groups", ()), strict=False)
            if any(mine.keys() - theirs.keys() - {"initial_lr"} for mine, theirs in groups):
                return "another type"
        return None

    @property
    def kinds(self) -> dict[str, str]:
        """The types of the parts, by name."""
        return {**self._kinds, **{name: _kind(part) for name, part in self._parts.items()}}

    @property
    def forgotten(self) -> list[str]:
        """Parts of the checkpoint that the script has not tracked."""
        return sorted(self._waiting)

    @property
    def has_optimizer(self) -> bool:
        """Whether one of the parts is an optimizer, by its type or its name."""
        return any(isinstance(p, torch.optim.Optimizer) or "optim" in name for name, p in self._parts.items())

    def state_dict(self) -> dict[str, Any]:
        """The parts' states now; states of parts that the script has not tracked stay as they were."""
        return {**self._waiting, **{name: _state_of(part) for name, part in self._parts.items()}}


def _kind(part: Stateful | dict[Any, Any]) -> str:
    """The name of the part's type; a part may give another one."""
    found: str = getattr(part, "kind", type(part).__name__) if not isinstance(part, dict) else "dict"
    return found


def _settings(part: Any) -> dict[str, Any]:
    """What an optimizer was built with: the settings of its first group."""
    groups = part.param_groups if isinstance(part, torch.optim.Optimizer) else []
    return {key: value for key, value in groups[0].items() if key != "params"} if groups else {}


def _stays(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """A line that names the settings that the checkpoint has replaced; those that a schedule moves are left out."""
    moved = {"lr", "momentum", "betas"} if "initial_lr" in before else set()
    changed = [
        f"{key} = {now[key]} (the script: {before[key]})"
        for key in before.keys() & now.keys() - moved
        if isinstance(before[key], (int, float, tuple)) and before[key] != now[key]
    ]
    if not changed:
        return None
    told = ", ".join(sorted(changed))
    return f"{name} goes on as in the checkpoint: {told}; set its param_groups after track to change it"


def _state_of(part: Stateful | dict[Any, Any]) -> Any:
    return part if isinstance(part, dict) else part.state_dict()


def generators_now() -> dict[str, Any]:
    """The states of python's, numpy's and torch's global generators."""
    return {
        "python": random.getstate(),
        "numpy": mtrand.get_bit_generator().state,
        "torch": torch.get_rng_state(),
    }


def set_generators(state: Mapping[str, Any]) -> None:
    """Give the global generators these states."""
    random.setstate(state["python"])
    mtrand.get_bit_generator().state = state["numpy"]
    torch.set_rng_state(state["torch"])
