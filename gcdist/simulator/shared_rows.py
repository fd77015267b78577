"""Rows of many simulated workers in one call each for their sums and their payloads: the bits of one after another.

Rounds that are foreseen say which rows will be asked for. The first that is makes all that leave before the step ends.
"""

from __future__ import annotations

from math import inf, isfinite
from typing import NamedTuple

import numpy as np

from gcdist.exchange.shift import row_bits, segments_of
from gcdist.model.buffer_updates import no_update
from gcdist.model.many_gradients import BlockGradients
from gcdist.protocol import Round
from gcdist.protocol.messages import Assignment
from gcdist.protocol.order import partition_orders
from gcdist.quantize.grid import measure
from gcdist.quantize.many_rows import sum_rows
from gcdist.types import F32, I64, U8, Quantizer
from gcdist.worker.ready_row import ReadyRow

MOST_VALUES = 1 << 20  # numbers of the rows that are made at once
FEWEST = 4  # rows; of fewer each is made alone


class _Expected(NamedTuple):
    ready: float  # when it is asked for
    work: Assignment
    done: list[float]  # seconds of its partitions


class SharedRows:
    """Makes the rows of one step that are expected; those of another step or version of the parameters are not known.

    Args:
        blocks: gradients of many partitions.
        quantizer: of the rows.
        seed: of the run.
        seconds: of computing a partition, that rows claim.
    """

    def __init__(self, blocks: BlockGradients, quantizer: Quantizer, seed: int, seconds: float) -> None:
        self._blocks, self._quantizer, self._seed, self._seconds = blocks, quantizer, seed, seconds
        self._of = (-1, -1)  # step and version of what is expected and made
        self._expected: dict[int, _Expected] = {}  # by row
        self._made: dict[int, tuple[list[float], ReadyRow]] = {}  # by row; the list says which round it is of
        self._claimed = [0.0]  # seconds of computing that so many partitions claim

    def expect(self, sent: Round, work: Assignment, ready: float, done: list[float]) -> None:
        """The one row of ``work`` will be asked for at ``ready``, with the partitions that are ``done`` by then."""
        if self._of != (sent.step, sent.params):
            self._of = sent.step, sent.params
            self._expected.clear()
            self._made.clear()
        self._expected[work.rows[0]] = _Expected(ready, work, done)

    def take(self, sent: Round, row: int, done: list[float], until: float | None) -> ReadyRow | None:
        """The row; None: it is not expected, or its numbers are not finite: it must be made alone.

        ``until``: what is ready by then is made with it. The model must hold the parameters of the round.
        """
        if self._of != (sent.step, sent.params):
            return None
        if row not in self._made:
            self._make(row, inf if until is None else until)
        found = self._made.pop(row, None)
        return found[1] if found is not None and found[0] is done else None

    def _make(self, asked: int, until: float) -> None:
        if asked not in self._expected:
            return
        d = self._blocks.shape.layout.d
        coming = sorted((each.ready, row) for row, each in self._expected.items() if each.ready <= until)
        rows = [row for _, row in coming[: max(1, MOST_VALUES // max(1, d))]]
        if asked not in rows:
            rows.append(asked)
        rows.sort()
        expected = [self._expected.pop(row) for row in rows]
        if len(rows) >= FEWEST:
            self._make_all(rows, expected)

    def _make_all(self, rows: list[int], expected: list[_Expected]) -> None:
        step, version = self._of
        partial = expected[0].work.partial  # all are of one plan
        parts = [each.work.parts[0] for each in expected]
        load_R = np.array([len(each) for each in parts])
        row_R = np.array(rows)
        part_A = np.array([j for each in parts for j, _ in each], np.int64)
        factor_A = np.array([a for each in parts for _, a in each])
        first_A = np.concatenate([[0], np.cumsum(load_R)])
        order_A = np.arange(len(part_A))
        if partial:
            order_A = partition_orders(self._seed, step, np.repeat(row_R, load_R), part_A)
        # the terms that are done: a prefix of each row's order
        done_R = np.array([len(each.done) for each in expected])
        place_A = np.arange(len(part_A)) - np.repeat(first_A[:-1], load_R)
        at_T = order_A[place_A < np.repeat(done_R, load_R)]
        part_T, factor_T = part_A[at_T], factor_A[at_T]
        first_R = np.concatenate([[0], np.cumsum(done_R)])
        grad_PD, which_T, losses = self._blocks.many(version, step, part_T)
        sum_RD = np.empty((len(rows), grad_PD.shape[1]), np.float32)
        energy_T = np.empty(len(part_T))
        scale_T = self._blocks.scale_K[part_T]
        sum_rows(grad_PD, which_T, scale_T, factor_T.astype(np.float32), first_R, sum_RD, energy_T)
        lines_T4 = np.empty((len(part_T), 4))
        lines_T4[:, 0], lines_T4[:, 1], lines_T4[:, 2] = part_T, losses, self._blocks.share_K[part_T]
        lines_T4[:, 3] = [seconds for each in expected for seconds in each.done]
        bits_R = [row_bits(each.work.bits[0]) for each in expected]
        energies = energy_T.tolist()
        factors, begins = factor_T.tolist(), first_R.tolist()
        probes = {r: measure(sum_RD[r])[1] for r, bits in enumerate(bits_R) if not bits and done_R[r] > 1}
        cut = np.flatnonzero(done_R < load_R)
        sum_RD[cut] *= (load_R[cut] / done_R[cut]).astype(np.float32)[:, None]
        payloads, encoded = self._encoded(sum_RD, row_R, bits_R)
        shape, used = self._blocks.shape, self._blocks.used
        buffers = no_update(shape)
        loads = load_R.tolist()
        while len(self._claimed) <= max(loads):
            self._claimed.append(self._claimed[-1] + self._seconds)
        for r, row in enumerate(rows):
            begin, end = begins[r], begins[r + 1]
            bad, energy, error = encoded[r]
            if bad >= 0 or not all(map(isfinite, energies[begin:end])) or not all(map(isfinite, losses[begin:end])):
                continue
            m, parts_energy = end - begin, 0.0
            for t in range(begin, end):
                parts_energy += factors[t] ** 2 * energies[t]
            if m == 1:
                sum_energy = parts_energy
            elif bits_R[r]:
                sum_energy = energy * (m / loads[r]) ** 2
            else:
                sum_energy = probes[r]
            self._made[row] = expected[r].done, ReadyRow(
                payloads[r], shape, lines_T4[begin:end], energy, error, parts_energy, sum_energy, self._claimed[m],
                buffers, used,
            )  # fmt: skip

    def _encoded(self, sum_RD: F32, row_R: I64, bits_R: list[int]) -> tuple[list[U8], list[list[float]]]:
        """Payload of each row; first bad coordinate or -1, energy, error."""
        payloads = [np.empty(0, np.uint8)] * len(bits_R)
        done = [[-1.0, 0.0, 0.0]] * len(bits_R)
        segments, step = segments_of(self._quantizer, self._blocks.shape.layout), self._of[0]
        of_R = np.array(bits_R)
        for bits in sorted(set(bits_R) - {0}):
            at_M = np.flatnonzero(of_R == bits)
            out_MB, done_M3 = segments.encode_many(sum_RD, at_M, bits, self._seed, step, row_R[at_M])
            for m, (r, line) in enumerate(zip(at_M.tolist(), done_M3.tolist(), strict=True)):
                payloads[r], done[r] = out_MB[m], line
        return payloads, done
