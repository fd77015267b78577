"""An independent account of a simulated run: from the master's events, in float64, what each step must have given."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from math import inf

import numpy as np
import pytest

from gcdist.coding.partial_memory import PartialMemory
from gcdist.exchange.shift import decode_row
from gcdist.master.driver import Record
from gcdist.master.round_result import RoundResult
from gcdist.protocol import Peer
from gcdist.protocol import master_io as m
from gcdist.run.session import Session
from gcdist.types import F32, F64, Plan, Use

PLAIN = ("sync", "memory")  # weight 1; the others promise 1/(1-p)


@dataclass
class Owed:
    """A round that was sent: its rows, with the version of the shift that they subtract."""

    step: int
    plan_id: int
    rows: dict[int, int]


@dataclass
class Spy:
    """Feed it the record of each step, and the result that the driver gave."""

    session: Session
    alive: dict[int, Peer] = field(default_factory=dict)
    owed: dict[Peer, Owed] = field(default_factory=dict)
    version: dict[int, int] = field(default_factory=dict)
    holder: dict[int, Peer] = field(default_factory=dict)
    h: dict[int, F64] = field(default_factory=dict)
    plan: Plan | None = None
    opened: m.OpenStep | None = None
    over: bool = True
    counted: dict[int, tuple[F64, Use]] = field(default_factory=dict)
    written_off: set[int] = field(default_factory=set)
    start: F64 | None = None
    steps: int = 0
    messages: int = 0
    refused: int = 0
    heard: set[int] = field(default_factory=set)

    def take(self, record: Record, result: RoundResult | None) -> None:
        """The events up to the end of a step, and what the driver said it gave (None: of no step)."""
        closed = None
        for event, told in record:
            self._event(event, told)
            for each in told:
                if isinstance(each, m.CloseStep):
                    closed, self.over = each, True
                elif isinstance(each, m.SendRound):
                    self._sent(each)
                elif isinstance(each, m.CloseLink | m.Leave):
                    self._gone(each.peer)
        if result is None:
            return
        assert closed is not None
        assert self.opened is not None
        self.steps += 1
        deadline = self.opened.terms.deadline
        assert result.seconds <= deadline + 1e-6
        assert deadline < inf
        assert set(closed.rows) == set(self.counted) == {counted.row for counted in result.counted}
        self._estimate(result, closed.closing.scale)

    # --- events ---

    def _event(self, event: m.MasterEvent, told: list[m.MasterInstruction]) -> None:
        match event:
            case m.Joined(peer=peer):
                if any(isinstance(each, m.Admit) for each in told):
                    if peer.worker in self.alive:
                        self._gone(self.alive[peer.worker])
                    self.alive[peer.worker] = peer
            case m.Lost(peer=peer) | m.Leaving(peer=peer):
                self._gone(peer)
            case m.Credit(peer=peer):
                rest = self.owed.pop(peer, None)
                if rest is not None and self.opened is not None and rest.step == self.opened.step:
                    self.written_off |= set(rest.rows)  # it has said that they will not come
            case m.OpenStep():
                self._open(event)
            case m.Arrived():
                self._arrived(event, told)

    def _gone(self, peer: Peer) -> None:
        if self.alive.get(peer.worker) == peer:
            del self.alive[peer.worker]
            if self.plan is not None:
                self.written_off |= set(np.flatnonzero(self.plan.worker_R == peer.worker).tolist())
        self.owed.pop(peer, None)
        for row in [row for row, holder in self.holder.items() if holder == peer]:
            self._zero(row)

    def _zero(self, row: int) -> None:
        for table in (self.h, self.version, self.holder):
            table.pop(row, None)

    def _open(self, event: m.OpenStep) -> None:
        plan = event.plan
        if self.plan is None or plan.plan_id != self.plan.plan_id:
            sends_R = plan.weighted_R()
            for row, holder in list(self.holder.items()):
                if row >= plan.rows or not sends_R[row] or plan.worker_R[row] != holder.worker:
                    self._zero(row)
        assert self.opened is None or event.step == self.opened.step + 1
        assert np.allclose(np.asarray(plan.A_RK.sum(axis=0))[plan.covered_K], 1)
        self.plan, self.opened, self.over = plan, event, False
        self.counted, self.written_off = {}, set()
        self.start = sum(self.h.values(), np.zeros(self.session.state.layout.d)) if self.session.code.shifted else None

    def _sent(self, told: m.SendRound) -> None:
        plan, sent = self.plan, told.round
        assert plan is not None
        assert told.peer not in self.owed
        rows = [row for row in range(plan.rows) if plan.worker_R[row] == told.peer.worker and plan.parts(row)]
        versions = [self.version.get(row, 0) for row in rows]
        assert list(sent.shift) == versions
        self.owed[told.peer] = Owed(sent.step, sent.plan_id, dict(zip(rows, versions, strict=True)))

    def _arrived(self, event: m.Arrived, told: list[m.MasterInstruction]) -> None:
        head, peer = event.head, event.peer
        owed = self.owed.get(peer) if self.alive.get(peer.worker) == peer else None
        uses = [each for each in told if isinstance(each, m.Accumulate | m.Keep)]
        right = (
            owed is not None
            and event.fault is None
            and (head.step, head.plan_id, head.shift) == (owed.step, owed.plan_id, owed.rows.get(head.row))
        )
        if not right:
            self.refused += 1
            assert uses == []
            if self.alive.get(peer.worker) == peer:
                assert any(isinstance(each, m.CloseLink) and each.peer == peer for each in told)
            return
        assert owed is not None
        assert self.plan is not None
        assert self.opened is not None
        version = owed.rows.pop(head.row)
        self.messages += 1
        self.heard.add(peer.worker)
        plan, row = self.plan, head.row
        now = head.step == self.opened.step and not self.over
        now &= event.at <= self.opened.at + self.opened.terms.deadline
        weighted = bool(plan.weighted_R()[row]) if row < plan.rows else False
        if now and weighted and row not in self.written_off:
            assert row not in self.counted
            assert len(uses) == 1
            value, use = self._decoded(event), uses[0].use
            self.counted[row] = value, use
            if isinstance(self.session.code, PartialMemory):  # h moves by what is in the message
                share = head.done / len(plan.parts(row))
                assert use.beta == pytest.approx(self.session.code.beta_of(plan)[row] * share)
            self._move(row, peer, value, use)
        elif uses:  # late, and the code keeps it: for the shift alone
            (use,) = (each.use for each in uses)
            assert isinstance(uses[0], m.Accumulate)
            assert uses[0].late
            assert not use.weight
            assert use.beta > 0
            assert plan.worker_R[row] == peer.worker
            assert self.version.get(row, 0) == version
            self._move(row, peer, self._decoded(event), use)

    def _decoded(self, event: m.Arrived) -> F64:
        out: F32 = np.zeros(self.session.state.layout.d, np.float32)
        body, head = event.body, event.head
        layout = self.session.state.layout
        decode_row(
            self.session.quantizer, layout, body.payload, body.bits, self.session.config.seed, head.step, head.row, out
        )
        assert np.isfinite(out).all()
        return out.astype(np.float64)

    def _move(self, row: int, peer: Peer, value: F64, use: Use) -> None:
        assert 0 <= use.beta <= 1
        assert (use.beta > 0) == self.session.code.shifted
        if use.beta:
            self.h[row] = self.h.get(row, np.zeros_like(value)) + use.beta * value
            self.version[row] = self.version.get(row, 0) + 1
            self.holder[row] = peer

    # --- the estimate ---

    def _estimate(self, result: RoundResult, scale: float) -> None:
        assert self.opened is not None
        p_R, plan = self.opened.terms.p_R, self.opened.plan
        total = np.zeros(self.session.state.layout.d) if self.start is None else self.start.copy()
        size = np.abs(total).max(initial=0.0)
        inverse = True
        for row, (value, use) in self.counted.items():
            weight = 1.0 if self.session.code.name in PLAIN else 1 / (1 - p_R[row]) if p_R[row] < 1 else 0.0
            assert use.weight is not None
            inverse &= bool(np.isclose(use.weight, weight))
            total += scale * use.weight * value
            size += abs(scale * use.weight) * np.abs(value).max(initial=0.0)
        if self.session.code.name == "self-normalised" and not (inverse and scale == 1.0):
            self._normalised(scale, plan, p_R)
        else:
            assert inverse
            assert scale == 1.0
        if result.gradient is None:
            assert not self.counted
            assert self.start is None or not self.start.any()
        else:
            assert np.abs(result.gradient - total).max() <= 1e-5 * size + 1e-9

    def _normalised(self, scale: float, plan: Plan, p_R: F64) -> None:
        """Weights a with ``E[k I_i a_i / sum I_l a_l Y_l | an arrival] = 1``: by summing over all sets of arrivals."""
        Y_R = plan.row_masses()  # partitions of the task may differ in size
        rows = np.flatnonzero(plan.weighted_R() & (p_R < 1))
        decoder = self.session.code.open(plan, self.opened.terms)  # type: ignore[union-attr]
        a = np.array([decoder.arrive(int(row)).weight for row in rows], np.float64)
        Y, p, k = Y_R[rows], p_R[rows], float(Y_R[rows].sum())
        mean, some = np.zeros(len(rows)), 0.0
        for arrivals in itertools.product((0, 1), repeat=len(rows)):
            here = np.array(arrivals)
            if here.any():
                chance = float(np.prod(np.where(here == 1, 1 - p, p)))
                some += chance
                mean += chance * k * here * a / (here @ (a * Y))
        assert np.allclose(mean / some, 1, atol=1e-6)
        if self.counted:
            mine = sum(a[rows.tolist().index(row)] * Y_R[row] for row in self.counted)
            assert np.isclose(scale, k / mine)
