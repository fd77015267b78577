"""A run on a virtual clock: the machines and drivers of a real run, real gradients, simulated time and network."""

from __future__ import annotations

from gcdist.exchange.setup import Setup
from gcdist.master.driver import MasterDriver, Record
from gcdist.master.port import Say
from gcdist.simulator.clock import Clock
from gcdist.simulator.network import Network
from gcdist.simulator.shared_gradients import SharedGradients
from gcdist.simulator.worker import SimulatedWorker


def simulated(setup: Setup, say: Say, record: Record | None = None) -> tuple[MasterDriver, Network]:
    """A master driver whose workers live on a virtual clock."""
    network = Network(setup, Clock())
    shared = SharedGradients(setup)
    for slot in range(setup.workers):
        network.workers[slot] = SimulatedWorker(slot, setup, network, shared)
        network.join(network.workers[slot], 0.0)
    driver = MasterDriver.of(setup, network, say, record)
    return driver, network
