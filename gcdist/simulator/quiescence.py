"""A simulated run at rest: nothing is on its way, so that a resumed run gives the same numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gcdist.master.driver import MasterDriver
from gcdist.simulator.network import Network

NEVER = 1e300  # seconds of the virtual clock: a partition that takes for ever


class Quiescence:
    """Brings a simulated run to rest, and out of it again in another process.

    At rest, before a checkpoint: stale work was dropped, late messages are handled, every live worker has given its credit.
    What is left of the workers are the shifts h_row that both ends hold, the gradients h_j that they remember of partitions,
    who of them is cold or busy with a partition that nobody wants any more, and the time. Workers that are lost join a
    resumed run at once.
    """

    def __init__(self, driver: MasterDriver, network: Network) -> None:
        self._driver = driver
        self._network = network

    def settle(self, step: int) -> tuple[int, int]:
        """Come to rest before ``step`` opens: `MasterDriver.settle`. It takes virtual seconds."""
        came = self._driver.settle(step, self._network.next_at)
        self._network.turns.at_rest()
        # H is a running sum; both this run and a resumed one go on from the plain one
        aggregator = self._driver.aggregator
        aggregator.restore(aggregator.shifts(), aggregator.predictor())
        return came

    def state_dict(self) -> dict[str, Any]:
        """What is left at rest: h_row (d,) by row, (row, worker, version, beta) of the shifts, (worker, partition, h_j):
        of all workers; who is cold, who is busy and until when, the time.
        """
        told = self._driver.machine.restoring(self._network.now())
        shifts = [(row, peer.worker, version, beta) for row, peer, version, beta in told.shifts]
        remembered = [
            (peer.worker, partition, h)
            for peer in self._driver.machine.members.peers()
            for partition, h in self._network.workers[peer.worker].rows.remembered().items()
        ]
        occupied = [
            (peer.worker, min(until, NEVER))
            for peer in self._driver.machine.members.peers()
            if (until := self._network.workers[peer.worker].occupied_until) > told.at
        ]
        return {
            "now": told.at,
            "h": self._driver.aggregator.shifts(),
            "shifts": shifts,
            "cold": told.cold,
            "busy": told.busy,
            "occupied": occupied,
            "remembered": remembered,
        }

    def load_state_dict(self, state: Mapping[str, Any], step: int) -> None:
        """Bring a run whose workers have joined to that rest, before ``step``."""
        self._driver.settle(step, self._network.next_at)
        self._network.clock.now = state["now"]
        self._network.turns.at_rest()
        peers = {peer.worker: peer for peer in self._driver.machine.members.peers()}
        shifts = tuple((row, peers[w], version, beta) for row, w, version, beta in state["shifts"] if w in peers)
        h = {row: state["h"][row] for row, *_ in shifts}
        self._driver.restore(shifts, state["cold"], tuple(state.get("busy", ())), h)
        occupied = dict(state.get("occupied", ()))
        for worker, peer in peers.items():
            mine = {row: version for row, holder, version, _ in shifts if holder == peer}
            simulated = self._network.workers[worker]
            simulated.driver.machine.restore(mine)
            theirs = {j: h_j for w, j, h_j in state.get("remembered", ()) if w == worker}
            simulated.rows.restore({row: h[row] for row in mine}, theirs)
            simulated.occupied_until = occupied.get(worker, 0.0)
