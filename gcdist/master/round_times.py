"""Seconds of each worker's rounds as the master sees them: from the sending of a round until the worker is free again."""

from __future__ import annotations

from dataclasses import dataclass

from gcdist.exchange.message import Message
from gcdist.exchange.sidecar import ends_of, parts_of, times_of
from gcdist.observe import WorkerRound
from gcdist.observe.times import End
from gcdist.protocol.messages import CreditWhy, Peer


@dataclass(slots=True)
class _Open:
    """A round that has been sent and has not ended."""

    step: int
    sent: float
    load: int
    down: int
    last: float | None = None  # when its newest message was in
    in_time: bool = False
    up: int = 0
    held: float = 0.0
    compute: float = 0.0
    data: float = 0.0
    ends: tuple[tuple[int, float], ...] = ()
    row: float = 0.0
    done: int = 0
    told: bool = False  # that it takes so long


class RoundTimes:
    """Keeps the rounds on their way, at most one a worker. All times on one clock, seconds."""

    def __init__(self) -> None:
        self._open: dict[Peer, _Open] = {}
        self._ended: list[tuple[Peer, _Open, End, float, float | None]] = []

    def sent(self, peer: Peer, step: int, at: float, load: int, nbytes: int) -> None:
        """A round of ``load`` partitions was sent, with ``nbytes`` of parameters."""
        self._open[peer] = _Open(step, at, load, nbytes)

    def arrived(self, peer: Peer, step: int, at: float, body: Message, in_time: bool) -> None:
        """A message of the round is in; ``in_time``: its step is open."""
        found = self._open.get(peer)
        if found is None or found.step != step:
            return
        found.last, found.in_time = at, in_time
        found.up += body.nbytes
        compute, data, held = times_of(body.sidecar)
        found.compute += compute
        found.data += data
        found.done += parts_of(body.sidecar)
        ends, row = ends_of(body.sidecar)
        found.ends += ends
        found.row = max(found.row, row)
        found.held = max(found.held, held)

    def freed(self, peer: Peer, step: int, at: float, why: CreditWhy, held: float) -> None:
        """The worker is free: it sent all of the round, or dropped it after ``held`` seconds."""
        found = self._open.get(peer)
        if found is None or found.step != step:
            return
        del self._open[peer]
        if why == "sent" and found.last is not None:
            end: End = "counted" if found.in_time else "late"
            self._ended.append((peer, found, end, found.last, found.held))
        else:
            self._ended.append((peer, found, "failed" if why == "failed" else "stale", at, held))

    def lost(self, peer: Peer, at: float) -> None:
        """The worker's link is gone, and the round with it."""
        found = self._open.pop(peer, None)
        if found is not None:
            self._ended.append((peer, found, "lost", at, None))

    def stuck(self, now: float, most: float) -> list[tuple[int, int, float]]:
        """(rank, step, seconds) of rounds that have taken longer than ``most``; each is told once."""
        found = []
        for peer, each in self._open.items():
            if not each.told and now - each.sent > most:
                each.told = True
                found.append((peer.rank, each.step, now - each.sent))
        return sorted(found)

    def take(self, origin: float) -> list[WorkerRound]:
        """The rounds that have ended since the last call; their times count from ``origin``."""
        ended, self._ended = self._ended, []
        return [
            WorkerRound(
                worker=peer.rank,
                step=each.step,
                end=end,
                sent=each.sent - origin,
                seconds=max(0.0, at - each.sent),
                held=held,
                compute=each.compute if each.last is not None else None,
                data=each.data if each.last is not None else None,
                load=each.load,
                up=each.up,
                down=each.down,
                done=each.done,
                ends=each.ends,
                row=each.row,
            )
            for peer, each, end, at, held in ended
        ]
