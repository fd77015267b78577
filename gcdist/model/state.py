"""A model's parameters and buffers as bytes, in and out: the same at master and worker."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from gcdist.memory import recycler
from gcdist.model.buffer_updates import BufferUpdate, merged
from gcdist.model.buffers import Buffers, ModelChangedError
from gcdist.model.device import CPU
from gcdist.model.vector_format import Shape
from gcdist.types import F32, U8, Layout, Mask

Downlink = Literal["differences", "float32", "bfloat16"]
TRAINABLE = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
WIRE = {"differences": torch.float32, "float32": torch.float32, "bfloat16": torch.bfloat16}


class ModelState:
    """A model's trainable parameters as one flat float32 vector, and its buffers: the same at master and worker.

    The vector holds the parameters with ``requires_grad`` in the order of ``named_parameters`` (shared ones once). They may
    be float32, bfloat16, float16 (both exact in float32) or float64, mixed too; float64 travels as float32, so that workers
    compute at the rounded values, while the master's own keep their digits. A parameter that is unfrozen later joins the
    vector in `grow` and stays in it. Until then a frozen one does not travel: its value is in the fingerprint.

    A snapshot is the vector (float32, or rounded to the nearest bfloat16, ties to even), then from a multiple of 4 bytes
    the float buffers as float32 (float64 ones lose digits), then from a multiple of 8 the integer and bool buffers in
    their own dtypes (`Shape.kinds`).

    Args:
        model: the module; it stays the user's. Names are told without the ``_orig_mod.`` of `torch.compile`.
        own: worker: where all of the vector is float32 on the CPU, make the parameters views of one flat tensor, so that
            `load` is one copy. The master leaves this off: there, optimizers find ordinary parameters.
        downlink: how the vector travels in a snapshot; differences are made elsewhere, from `read_vector`.
        device: worker: where the model is.

    Raises:
        ValueError: a parameter or buffer of a kind that is not supported, named with its dtype.
    """

    def __init__(
        self, model: nn.Module, own: bool = False, downlink: Downlink = "float32", device: torch.device = CPU
    ) -> None:
        self.model = model
        self.device = device
        self._own = own
        self._wire = WIRE[downlink]
        self._all = _parameters(model)
        self._start = tuple(i for i, p in enumerate(self._all) if p.tensor.requires_grad)
        if not self._start:
            raise ValueError(f"{type(model).__name__} has no parameter with requires_grad: there is nothing to train")
        self._buffers = Buffers(model)
        self.fingerprint = _fingerprint(self._all, self._buffers)
        self._known = {each.name for each in self._all}
        self._looked = False  # for parameters that came with the first forward pass
        self._frozen: dict[int, Tensor] = {}  # worker: values of the start, of parameters that were unfrozen later
        self._lay(self._start)

    def _lay(self, trained: tuple[int, ...]) -> None:
        """Make these parameters, by number, the vector."""
        chosen = [self._all[i] for i in trained]
        for each in chosen:
            _check_trainable(each)
        self._trained = trained
        self.names = [each.name for each in chosen]
        self.parameters: list[Tensor] = [each.tensor for each in chosen]
        self.sizes = tuple(p.numel() for p in self.parameters)
        self._ends = np.cumsum(self.sizes)
        layout = Layout.by_parameter(self.sizes, self.fingerprint)
        buffers = self._buffers
        told = None if trained == self._start else trained
        self.shape = Shape(layout, told, len(chosen), buffers.float_sizes, buffers.kinds)
        self._floats_at = -(-self._wire.itemsize * layout.d // 4) * 4
        self._ints_at = -(-(self._floats_at + 4 * buffers.floats.size) // 8) * 8
        self._flat: Tensor | None = None
        if self._own and all(p.dtype is torch.float32 and p.device == CPU for p in self.parameters):
            self._flat = torch.cat([p.detach().reshape(-1) for p in self.parameters])
            for parameter, view in zip(self.parameters, self.split(self._flat), strict=True):
                parameter.data = view

    @property
    def layout(self) -> Layout:
        """Cuts of the vector as it is now; a new object when it has grown."""
        return self.shape.layout

    @property
    def nbytes(self) -> int:
        """Size of a snapshot."""
        return self._ints_at + self.shape.int_nbytes

    def name_at(self, coordinate: int) -> str:
        """Name of the parameter that a coordinate of the flat vector belongs to."""
        return self.names[int(np.searchsorted(self._ends, coordinate, side="right"))]

    def grow(self, names: Iterable[str] = ()) -> bool:
        """Master: take the parameters that require a gradient by now, and the named ones, into the vector; it never shrinks.

        A checkpoint keeps ``names`` and gives them here before the first step.

        Returns:
            Whether the vector has grown: its coordinates are others then, and ``shape`` is a new object.

        Raises:
            ValueError: an unknown name; a parameter of a kind that is not supported, or that was replaced by another object.
        """
        wanted = set(names)
        for each in self._all:
            if each.home[each.key] is not each.tensor:
                raise ValueError(
                    f"parameter {each.name!r} was replaced by another object after the run was connected: change its "
                    "values in place (load_state_dict without assign=True)"
                )
        if unknown := wanted - {each.name for each in self._all}:
            raise ValueError(f"{type(self.model).__name__} has no parameter {sorted(unknown)[0]!r}")
        had = set(self._trained)
        trained = tuple(
            i for i, each in enumerate(self._all) if i in had or each.tensor.requires_grad or each.name in wanted
        )
        if len(trained) == len(had):
            return False
        self._lay(trained)
        return True

    def adopt(self, trained: tuple[int, ...] | None) -> None:
        """Worker: make these the parameters of the vector (see `Shape.trained`), trainable from now on.

        Raises:
            ValueError: numbers that this model's parameters do not have.
        """
        if trained == self.shape.trained:
            return
        numbers = self._start if trained is None else trained
        if not set(self._start) <= set(numbers) <= set(range(len(self._all))) or sorted(set(numbers)) != list(numbers):
            raise ValueError(f"no vector of this model: parameters {numbers}")
        for i, each in enumerate(self._all):
            p = each.tensor
            if i in numbers and i not in self._trained:
                self._frozen[i] = p.detach().clone()
                p.requires_grad_(True)
            elif i in self._trained and i not in numbers:
                p.data = self._frozen.pop(i)
                p.requires_grad_(False)
        self._lay(numbers)

    def snapshot(self, out: U8 | None = None) -> U8:
        """Copy parameters and buffers into ``out`` (nbytes,), a new array if None."""
        raw = recycler.take(self.nbytes) if out is None else out
        raw[self._wire.itemsize * self.layout.d :] = 0  # what lies between the sections too
        vector, floats, ints = self._sections(raw)
        with torch.no_grad():
            torch._foreach_copy_(self.split(vector), self.parameters)
        floats[:], ints[:] = self._buffers.read()
        return raw

    def load(self, raw: U8) -> None:
        """Take a snapshot into the model; its buffers are the ones that `restore_buffers` goes back to."""
        self._load(*self._sections(raw))

    def load_values(self, vector: F32, floats: F32, ints: U8) -> None:
        """The same from the vector (d,) and the buffers as `read_buffers` gives them.

        Raises:
            ValueError: of another size.
        """
        expected = (self.layout.d, self.shape.floats, self.shape.int_nbytes)
        found = (len(vector), len(floats), len(ints))
        if found != expected:
            raise ValueError(f"this model has (coordinates, float buffers, integer bytes) {expected}, found {found}")
        self._load(torch.from_numpy(vector), floats, ints)

    def read_vector(self, out: F32) -> F32:
        """Copy the parameters into ``out`` (d,), and return it."""
        with torch.no_grad():
            torch._foreach_copy_(self.split(torch.from_numpy(out)), self.parameters)
        return out

    def read_gap(self, replica: F32, out: F32) -> F32:
        """Write the parameters minus ``replica`` (d,) into ``out`` (d,), and return it."""
        vectors = (self.split(torch.from_numpy(vector)) for vector in (replica, out))
        with torch.no_grad():
            for p, held, gap in zip(self.parameters, *vectors, strict=True):
                if p.dtype is torch.float32 and p.device == CPU:
                    torch.sub(p, held, out=gap)
                else:
                    gap.copy_(p).sub_(held)
        return out

    def read_buffers(self) -> tuple[F32, U8]:
        """Float buffers as float32, then integer and bool ones as bytes, as new arrays; ModelChangedError."""
        return self._buffers.read()

    def _load(self, vector: Tensor, floats: F32, ints: U8) -> None:
        with torch.no_grad():
            if self._flat is not None:
                self._flat.copy_(vector)
            else:
                torch._foreach_copy_(self.parameters, self.split(vector.to(self.device)))
        self._buffers.write(floats, ints)

    def restore_buffers(self) -> None:
        """Give the buffers the values of the last `load`: no partition sees what another one did to them."""
        self._buffers.restore()

    def buffer_update(self, share: float) -> BufferUpdate:
        """The buffers that the forward pass changed; ``share`` is that of the samples behind it.

        Raises:
            ModelChangedError: the forward pass changed the model itself.
        """
        if not self._looked:
            self._looked = True
            new = [each.name for each in _parameters(self.model) if each.name not in self._known]
            if new:
                raise ModelChangedError(
                    f"parameter {new[0]!r} came with the forward pass, and nobody would train it: run the model once before "
                    "the run begins"
                )
        return self._buffers.update(share)

    def merge_buffers(self, updates: Sequence[BufferUpdate]) -> None:
        """Master: the buffers that arrived partitions changed become what `merged` makes of them; all others stay."""
        if self.shape.buffers:
            self._buffers.take(merged(updates, self.shape))

    def set_grad(self, g: F32, has_grad: Mask | None = None) -> None:
        """Replace every ``.grad`` by its part of ``g`` (d,): None where ``has_grad`` (one entry a parameter) is False.

        It has the parameter's dtype and device (in float16, numbers beyond 65504 become infinite). For float32 on the CPU it
        is a view: ``g`` must not be written to before the next call; it is the user's gradient until then.
        """
        for i, (p, view) in enumerate(zip(self.parameters, self.split(torch.from_numpy(g)), strict=True)):
            wanted = p.requires_grad and (has_grad is None or has_grad[i])
            p.grad = view.to(p.device, p.dtype) if wanted else None

    def split(self, flat: Tensor) -> list[Tensor]:
        """Views of a flat vector (d,) in the shapes of the parameters."""
        return [
            view.view(p.shape) for view, p in zip(torch.split(flat, list(self.sizes)), self.parameters, strict=True)
        ]

    def _sections(self, raw: U8) -> tuple[Tensor, F32, U8]:
        """The vector as it travels, the float buffers and the integer buffers of a snapshot, as views."""
        if raw.shape != (self.nbytes,):
            raise ValueError(f"a snapshot of this model has {self.nbytes} bytes, found shape {raw.shape}")
        vector = torch.from_numpy(raw[: self._wire.itemsize * self.layout.d]).view(self._wire)
        floats = raw[self._floats_at : self._floats_at + 4 * self.shape.floats].view(np.float32)
        return vector, floats, raw[self._ints_at :]


class _Parameter:
    """One parameter and where its module keeps it."""

    def __init__(self, name: str, tensor: nn.Parameter, home: dict[str, nn.Parameter | None], key: str) -> None:
        self.name, self.tensor, self.home, self.key = name, tensor, home, key


def _parameters(model: nn.Module) -> list[_Parameter]:
    """All parameters in the order of ``named_parameters``, shared ones once."""
    found: list[_Parameter] = []
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        for key, p in module._parameters.items():
            if p is None or id(p) in seen:
                continue
            seen.add(id(p))
            name = (f"{prefix}." if prefix else "").replace("_orig_mod.", "") + key
            _check_parameter(name, p)
            found.append(_Parameter(name, p, module._parameters, key))
    return found


def _check_parameter(name: str, p: Tensor) -> None:
    if nn.parameter.is_lazy(p):
        raise ValueError(f"parameter {name!r} has no shape yet: run the model once before the training starts")
    if p.is_complex() or p.layout is not torch.strided or p.device.type == "meta":
        raise ValueError(
            f"parameter {name!r} is {p.dtype} ({p.layout}, {p.device.type}): only dense real ones can travel"
        )


def _check_trainable(each: _Parameter) -> None:
    if each.tensor.dtype not in TRAINABLE:
        allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in TRAINABLE)
        raise ValueError(f"parameter {each.name!r} is {each.tensor.dtype}: only {allowed} can be trained")


def _fingerprint(parameters: list[_Parameter], buffers: Buffers) -> str:
    """Hash of names, shapes, dtypes and requires_grad of parameters and buffers, and of the frozen parameters' values."""
    digest = hashlib.sha256()
    for each in parameters:
        p = each.tensor
        digest.update(f"{each.name} {tuple(p.shape)} {p.dtype} {p.requires_grad};".encode())
        if not p.requires_grad:
            digest.update(p.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    for name, tensor in buffers.named():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode())
    return digest.hexdigest()[:16]
