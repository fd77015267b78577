"""A run in a made-up world: the same drivers on a virtual clock."""

from gcdist.simulator.network import Network
from gcdist.simulator.quiescence import Quiescence
from gcdist.simulator.world import simulated

__all__ = ["Network", "Quiescence", "simulated"]
