"""The round protocol: two pure state machines, events in and instructions out."""

from gcdist.protocol.master import MasterMachine
from gcdist.protocol.messages import PROTOCOL, Assignment, Head, Hello, Peer, Round
from gcdist.protocol.worker import WorkerMachine

__all__ = ["PROTOCOL", "Assignment", "Head", "Hello", "MasterMachine", "Peer", "Round", "WorkerMachine"]
