"""The coded sums of many rows, their payloads, and the sum of many payloads, in one call each: the bits of one by one."""

from __future__ import annotations

import numpy as np
from numba import boolean, int64, types, uint64

from gcdist.quantize.floats import scaled_into
from gcdist.quantize.jit import FLOATS_OUT, SCRATCH, kernel
from gcdist.quantize.pieces import TABLE, pieces_added, pieces_of
from gcdist.quantize.rotated_pieces import rotated_of
from gcdist.types import F32, F64, I64, U8

_FLOATS = types.Array(types.float32, 1, "C")
_MATRIX = types.Array(types.float32, 2, "C")
_DOUBLES = types.Array(types.float64, 1, "C")
_TRIPLES = types.Array(types.float64, 2, "C")
_INDICES = types.Array(types.int64, 1, "C")
_BYTES = types.Array(types.uint8, 2, "C")
_TABLES = types.Array(types.int64, 3, "C")
_ENDS = types.Array(types.int64, 2, "C")
_PARTS = types.UniTuple(int64, 4)  # type: ignore[no-untyped-call]


@kernel(types.void, _MATRIX, _INDICES, _FLOATS, _FLOATS, _INDICES, _MATRIX, _DOUBLES)
def sum_rows(grad_PD: F32, at_T: I64, scale_T: F32, factor_T: F32, first_R: I64, out_RD: F32, energy_T: F64) -> None:
    """``out = sum of factor * (scale * grad)`` of each row's terms, as `add_scaled` adds them, and each term's energy.

    Args:
        grad_PD: gradients.
        at_T: which of them each term has.
        scale_T: of the gradient.
        factor_T: of the term.
        first_R: (R + 1,) where each row's terms begin.
        out_RD: takes the sums; a row without terms stays as it is.
        energy_T: takes ``|scale * grad|^2``.
    """
    for r in range(len(out_RD)):
        for t in range(first_R[r], first_R[r + 1]):
            first = t == first_R[r]
            energy_T[t] = scaled_into(grad_PD[at_T[t]], scale_T[t], factor_T[t], first, out_RD[r])


@kernel(types.void, _MATRIX, _INDICES, _INDICES, TABLE, int64, uint64, boolean, _PARTS, _BYTES, _TRIPLES, SCRATCH)
def encode_rows(
    x_RD: F32,
    at_M: I64,
    row_M: I64,
    piece: I64,
    bits: int,
    start: np.uint64,
    dithered: bool,
    ends: tuple[int, int, int, int],
    out_MB: U8,
    done_M3: F64,
    scratch: F32,
) -> None:
    """`encode_pieces` of M vectors.

    Args:
        x_RD: vectors.
        at_M: which of them are encoded.
        row_M: their numbers, which the randomness follows from.
        piece: table of the pieces.
        bits: a coordinate.
        start: of the step's randomness.
        dithered: as in `encode_pieces`.
        ends: bytes of a payload at which scales, words, halves and last bytes end.
        out_MB: takes the payloads, at the beginning of each line.
        done_M3: takes the first bad coordinate or -1, ``|x|^2`` and ``|Q(x)-x|^2``.
        scratch: of the kernels.
    """
    a, b, c, d = ends
    for m in range(len(at_M)):
        out = out_MB[m]
        scale_S, words, half, tail = (
            out[:a].view(np.float32),
            out[a:b].view(np.uint32),
            out[b:c].view(np.uint16),
            out[c:d],
        )
        bad, energy, error = pieces_of(
            x_RD[at_M[m]], piece, bits, start, row_M[m], dithered, scale_S, words, half, tail, scratch
        )
        done_M3[m, 0], done_M3[m, 1], done_M3[m, 2] = bad, energy, error


@kernel(
    types.void,
    _MATRIX,
    _INDICES,
    _INDICES,
    TABLE,
    int64,
    uint64,
    uint64,
    boolean,
    _PARTS,
    _BYTES,
    _TRIPLES,
    SCRATCH,
    SCRATCH,
)
def encode_rotated_rows(
    x_RD: F32,
    at_M: I64,
    row_M: I64,
    piece: I64,
    bits: int,
    start: np.uint64,
    shared: np.uint64,
    dithered: bool,
    ends: tuple[int, int, int, int],
    out_MB: U8,
    done_M3: F64,
    y: F32,
    scratch: F32,
) -> None:
    """`encode_rotated` of M vectors; arguments as in `encode_rows`, and ``shared`` of the rotation's randomness."""
    a, b, c, d = ends
    for m in range(len(at_M)):
        out = out_MB[m]
        scale_S, words, half = out[:a].view(np.float32), out[a:b].view(np.uint32), out[b:c].view(np.uint16)
        bad, energy, error = rotated_of(
            x_RD[at_M[m]], piece, bits, start, shared, row_M[m], dithered, scale_S, words, half, out[c:d], y, scratch
        )
        done_M3[m, 0], done_M3[m, 1], done_M3[m, 2] = bad, energy, error


@kernel(types.void, _BYTES, _INDICES, _INDICES, _INDICES, _FLOATS, _TABLES, _ENDS, uint64, boolean, FLOATS_OUT, SCRATCH)
def add_rows(
    payload_MB: U8,
    table_M: I64,
    bits_M: I64,
    row_M: I64,
    weight_M: F32,
    piece_T: I64,
    ends_T4: I64,
    start: np.uint64,
    dithered: bool,
    out: F32,
    scratch: F32,
) -> None:
    """`add_pieces` of M payloads, in order.

    Args:
        payload_MB: payloads, at the beginning of each line.
        table_M: which of the tables belongs to each one's bits.
        bits_M: a coordinate.
        row_M: their numbers.
        weight_M: of each.
        piece_T: tables of the pieces, (T, pieces, COLUMNS).
        ends_T4: bytes at which scales, words, halves and last bytes end, for each table.
        start: of the step's randomness.
        dithered: as in `add_pieces`.
        out: the sum (d,).
        scratch: of the kernels.
    """
    for m in range(len(row_M)):
        t, raw = table_M[m], payload_MB[m]
        a, b, c, d = ends_T4[t, 0], ends_T4[t, 1], ends_T4[t, 2], ends_T4[t, 3]
        scale_S, words, half = raw[:a].view(np.float32), raw[a:b].view(np.uint32), raw[b:c].view(np.uint16)
        pieces_added(
            scale_S, words, half, raw[c:d], piece_T[t], bits_M[m], start, row_M[m], dithered, weight_M[m], out, scratch
        )
