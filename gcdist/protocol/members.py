"""Who takes part, at the master: the workers whose link stands, and who is let in."""

from __future__ import annotations

import numpy as np

from gcdist.protocol.master_state import PeerState
from gcdist.protocol.messages import Hello, Peer
from gcdist.types import Mask


class Members:
    """The workers whose link stands, one life each.

    Args:
        workers: number of slots n.
        expected: the master's own Hello; a worker's that differs in anything but its name is refused.
    """

    def __init__(self, workers: int, expected: Hello) -> None:
        self.workers = workers
        self.standing: dict[int, PeerState] = {}  # by index
        self._newest: dict[int, int] = {}  # by index: the newest life that was admitted; older ones are refused
        self._expected = expected

    def live(self) -> Mask:
        """Workers whose link stands, (N,)."""
        mask: Mask = np.zeros(self.workers, bool)
        mask[list(self.standing)] = True
        return mask

    def count(self) -> int:
        """Live workers."""
        return len(self.standing)

    def ready(self) -> Mask:
        """Live workers that have no older work that is known of, (N,): see `PeerState.ready`."""
        mask: Mask = np.zeros(self.workers, bool)
        mask[[w for w, p in self.standing.items() if p.ready]] = True
        return mask

    def holds(self) -> dict[int, tuple[int, ...]]:
        """The partitions of each live worker that cannot read all of them."""
        return {w: p.holds for w, p in self.standing.items() if p.holds is not None}

    def peers(self) -> tuple[Peer, ...]:
        """Everybody whose link stands."""
        return tuple(p.peer for p in self.standing.values())

    def state_of(self, peer: Peer) -> PeerState | None:
        """What is known of this life of a worker; None: its link does not stand (any more)."""
        state = self.standing.get(peer.worker)
        return state if state is not None and state.peer == peer else None

    def run_ahead(self, hello: Hello) -> int:
        """How many runs of the same script a worker is ahead of the master; below 0: behind it."""
        return hello.run - self._expected.run

    def why_refuse(self, peer: Peer, hello: Hello) -> str | None:
        """Why a worker is not let in, in words; None: it is."""
        if not 0 <= peer.worker < self.workers:
            return f"worker {peer.rank} has no place: this run has workers 1 to {self.workers}"
        if peer.inc <= self._newest.get(peer.worker, -1):
            return f"worker {peer.rank} has a newer link already"
        difference = self._expected.difference(hello) or self._other_data(peer, hello)
        return f"worker {peer.rank} differs in its {difference}" if difference else None

    def _other_data(self, peer: Peer, hello: Hello) -> str | None:
        """A sample that another worker reads otherwise, in words; this compares data that the master does not have."""
        theirs = {sample.number: sample for sample in hello.looked}
        for state in self.standing.values() if theirs else ():
            for sample in state.looked if state.peer.worker != peer.worker else ():
                other = theirs.get(sample.number)
                if other is not None and (off := sample.difference(other, f"worker {state.peer.rank} has")):
                    return off
        return None

    def enter(self, peer: Peer, hello: Hello) -> None:
        """Let a worker in that is not refused; an older life of it is gone already."""
        self._newest[peer.worker] = peer.inc
        mine = {sample.number for sample in self._expected.looked}
        looked = tuple(sample for sample in hello.looked if sample.number not in mine)
        self.standing[peer.worker] = PeerState(peer, hello.holds, looked)
