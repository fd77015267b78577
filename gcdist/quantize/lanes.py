"""Vectors of 16 lanes inside kernels: explicit vector code, because numba's own vectorizer does not find it.

`Floats` holds 16 float32, `Words` 16 uint32. Each operation becomes one LLVM vector instruction, which LLVM splits on
machines with shorter registers; results are the same bits everywhere (IEEE, no contraction). Operators work lane by
lane; `>>` is logical; integers wrap.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import extending, types
from numpy.typing import NDArray

from gcdist.quantize.jit import inlined
from gcdist.types import F32

U16: TypeAlias = NDArray[np.uint16]
U32: TypeAlias = NDArray[np.uint32]
Scalar: TypeAlias = float | np.floating[Any] | np.integer[Any]
LANES = 16


class Floats:
    """16 float32; exists in kernels only."""

    def __add__(self, other: Floats) -> Floats: ...  # type: ignore[empty-body]
    def __sub__(self, other: Floats) -> Floats: ...  # type: ignore[empty-body]
    def __mul__(self, other: Floats) -> Floats: ...  # type: ignore[empty-body]


class Words:
    """16 uint32; exists in kernels only."""

    def __add__(self, other: Words) -> Words: ...  # type: ignore[empty-body]
    def __sub__(self, other: Words) -> Words: ...  # type: ignore[empty-body]
    def __mul__(self, other: Words) -> Words: ...  # type: ignore[empty-body]
    def __xor__(self, other: Words) -> Words: ...  # type: ignore[empty-body]
    def __and__(self, other: Words) -> Words: ...  # type: ignore[empty-body]
    def __or__(self, other: Words) -> Words: ...  # type: ignore[empty-body]
    def __lshift__(self, other: Words) -> Words: ...  # type: ignore[empty-body]
    def __rshift__(self, other: Words) -> Words: ...  # type: ignore[empty-body]


_make: Any = extending  # numba is typed in part only


class _Lanes(types.Type):
    """The numba type of 16 lanes of ``scalar``."""

    def __init__(self, scalar: Any) -> None:
        self.scalar = scalar
        super().__init__(name=f"lanes({scalar})")


_F, _W = _Lanes(types.float32), _Lanes(types.uint32)
_IR_F, _IR_W = ir.VectorType(ir.FloatType(), LANES), ir.VectorType(ir.IntType(32), LANES)
_IR = {_F: _IR_F, _W: _IR_W}
_IR_H = ir.VectorType(ir.IntType(16), LANES)
_MEMORY = {types.float32: _IR_F, types.uint32: _IR_W, types.uint16: _IR_H}
_OF = {types.float32: _F, types.uint32: _W}


@_make.register_model(_Lanes)
class _LanesModel(extending.models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _IR[kind])  # type: ignore[no-untyped-call]


def _operator(symbol: Callable[..., Any], kind: _Lanes, instruction: str) -> None:
    def typed(context: Any) -> Any:
        return lambda a, b: kind if a == kind and b == kind else None

    def lowered(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return getattr(builder, instruction)(*values)

    _make.type_callable(symbol)(typed)
    _make.lower_builtin(symbol, kind, kind)(lowered)


for _symbol, _word, _float in (
    (operator.add, "add", "fadd"),
    (operator.sub, "sub", "fsub"),
    (operator.mul, "mul", "fmul"),
    (operator.xor, "xor", ""),
    (operator.and_, "and_", ""),
    (operator.or_, "or_", ""),
    (operator.lshift, "shl", ""),
    (operator.rshift, "lshr", ""),
):
    _operator(_symbol, _W, _word)
    if _float:
        _operator(_symbol, _F, _float)


def _one(result: Any, kind: Any, emit: Callable[[Any, Any], Any]) -> Any:
    def lanes_function(context: Any, a: Any) -> Any:
        return result(kind), lambda context, builder, signature, values: emit(builder, *values)

    return _make.intrinsic(lanes_function)


def _two(result: Any, kind: Any, emit: Callable[[Any, Any, Any], Any]) -> Any:
    def lanes_function(context: Any, a: Any, b: Any) -> Any:
        return result(kind, kind), lambda context, builder, signature, values: emit(builder, *values)

    return _make.intrinsic(lanes_function)


def _llvm(name: str, kind: Any, result: Any = None) -> Callable[..., Any]:
    def emit(builder: Any, *values: Any) -> Any:
        shape = ir.FunctionType(result or kind, [kind] * len(values))
        full = f"{name}.v16{'f32' if kind is _IR_F else 'i32'}"
        function = builder.module.globals.get(full) or ir.Function(builder.module, shape, full)
        return builder.call(function, values)

    return emit


def _reduce(name: str) -> Callable[[Any, Any], Any]:
    return _llvm(name, _IR_W, ir.IntType(32))


def _spread(builder: Any, value: Any) -> Any:
    kind = ir.VectorType(value.type, LANES)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), ir.Constant(_IR_W, [0] * LANES))


def _mirror(distance: int) -> Callable[[Any, Any], Any]:
    order = ir.Constant(_IR_W, [i ^ distance for i in range(LANES)])
    return lambda builder, a: builder.shuffle_vector(a, a, order)


def _place(context: Any, builder: Any, array_type: Any, array: Any, i: Any) -> Any:
    """Pointer to 16 lanes of ``array`` from ``i`` on."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [i]), _MEMORY[array_type.dtype].as_pointer())


def _load(context: Any, array: Any, i: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        value = builder.load(_place(context, builder, signature.args[0], *values))
        value.align = 4 if array.aligned else 1
        return value

    return _OF[array.dtype](array, types.intp), generate


def _store(context: Any, array: Any, i: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        stored = builder.store(values[2], _place(context, builder, signature.args[0], *values[:2]))
        stored.align = 4 if array.aligned else 1
        return context.get_dummy_value()

    return types.void(array, types.intp, _OF[array.dtype]), generate


def _load_halves(context: Any, array: Any, i: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        value = builder.load(_place(context, builder, signature.args[0], *values))
        value.align = 1
        return builder.zext(value, _IR_W)

    return _W(array, types.intp), generate


def _store_halves(context: Any, array: Any, i: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        half = builder.trunc(values[2], _IR_H)
        builder.store(half, _place(context, builder, signature.args[0], *values[:2])).align = 1
        return context.get_dummy_value()

    return types.void(array, types.intp, _W), generate


def _lookup(context: Any, table: Any, index: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        found = ir.Constant(_IR[_OF[table.dtype]], ir.Undefined)
        for lane in range(LANES):
            place = ir.Constant(ir.IntType(32), lane)
            entry = builder.load(
                builder.gep(data, [builder.zext(builder.extract_element(values[1], place), ir.IntType(64))])
            )
            found = builder.insert_element(found, entry, place)
        return found

    return _OF[table.dtype](table, _W), generate


load: Callable[[F32, int], Floats] = _make.intrinsic(_load)  # 16 entries of a float32 vector
load_words: Callable[[U32, int], Words] = load  # type: ignore[assignment]  # or of a uint32 vector
store: Callable[[F32, int, Floats], None] = _make.intrinsic(_store)
store_words: Callable[[U32, int, Words], None] = store  # type: ignore[assignment]
load_halves: Callable[[U16, int], Words] = _make.intrinsic(_load_halves)  # of a uint16 vector
store_halves: Callable[[U16, int, Words], None] = _make.intrinsic(_store_halves)  # the lower halves
lookup: Callable[[F32, Words], Floats] = _make.intrinsic(_lookup)  # table[index], lane by lane
lookup_words: Callable[[U32, Words], Words] = lookup  # type: ignore[assignment]
exceeds: Callable[[Floats, Floats], Words] = _two(  # 1 where a > b, else 0
    _W, _F, lambda builder, a, b: builder.zext(builder.fcmp_ordered(">", a, b), _IR_W)
)
fill: Callable[[Scalar], Floats] = _one(_F, types.float32, _spread)
fill_words: Callable[[Scalar], Words] = _one(_W, types.uint32, _spread)
numbered: Callable[[Scalar], Words] = _one(  # a, a + 1, ..., a + 15
    _W, types.uint32, lambda builder, a: builder.add(_spread(builder, a), ir.Constant(_IR_W, list(range(LANES))))
)
rounded: Callable[[Floats], Words] = _one(  # to the nearest signed integer; |a| < 2^31
    _W, _F, lambda builder, a: builder.fptosi(_llvm("llvm.rint", _IR_F)(builder, a), _IR_W)
)
rounded_down: Callable[[Floats], Words] = _one(
    _W, _F, lambda builder, a: builder.fptosi(_llvm("llvm.floor", _IR_F)(builder, a), _IR_W)
)
to_floats: Callable[[Words], Floats] = _one(_F, _W, lambda builder, a: builder.sitofp(a, _IR_F))  # signed
bits_of: Callable[[Floats], Words] = _one(_W, _F, lambda builder, a: builder.bitcast(a, _IR_W))
floats_of: Callable[[Words], Floats] = _one(_F, _W, lambda builder, a: builder.bitcast(a, _IR_F))
shifted_signed: Callable[[Words, Words], Words] = _two(_W, _W, lambda builder, a, b: builder.ashr(a, b))
signed_max: Callable[[Words, Words], Words] = _two(_W, _W, _llvm("llvm.smax", _IR_W))
signed_min: Callable[[Words, Words], Words] = _two(_W, _W, _llvm("llvm.smin", _IR_W))
unsigned_max: Callable[[Words, Words], Words] = _two(_W, _W, _llvm("llvm.umax", _IR_W))
# Lane i from lane i ^ 1, 2, 4, 8.
mirror1: Callable[[Floats], Floats] = _one(_F, _F, _mirror(1))
mirror2: Callable[[Floats], Floats] = _one(_F, _F, _mirror(2))
mirror4: Callable[[Floats], Floats] = _one(_F, _F, _mirror(4))
mirror8: Callable[[Floats], Floats] = _one(_F, _F, _mirror(8))
first: Callable[[Floats], np.float32] = _one(
    types.float32, _F, lambda builder, a: builder.extract_element(a, ir.Constant(ir.IntType(32), 0))
)
first_word: Callable[[Words], int] = _one(
    types.uint32, _W, lambda builder, a: builder.extract_element(a, ir.Constant(ir.IntType(32), 0))
)
greatest_signed: Callable[[Words], int] = _one(types.int32, _W, _reduce("llvm.vector.reduce.smax"))
greatest_unsigned: Callable[[Words], int] = _one(types.uint32, _W, _reduce("llvm.vector.reduce.umax"))


@inlined
def total(a: Floats) -> np.float32:
    """Sum of the lanes, always in the same order."""
    a = a + mirror8(a)
    a = a + mirror4(a)
    a = a + mirror2(a)
    return first(a + mirror1(a))
