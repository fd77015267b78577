"""Delay models, arrival statistics and deadlines; time is an argument, never a clock."""

from gcdist.straggler.arrivals import Arrivals
from gcdist.straggler.chances import WAIT_P, Chances, make_chances
from gcdist.straggler.chosen_deadline import ChosenDeadline
from gcdist.straggler.cuts import FirstPartition, with_cuts
from gcdist.straggler.deadline import (
    ArrivalRule,
    AutoDeadline,
    FixedDeadline,
    WaitForAll,
    make_stop_rule,
)
from gcdist.straggler.delays import DELAYS, load_delays, make_delays, read_trace, register_delays
from gcdist.straggler.faults import FaultSchedule, Planned, pick
from gcdist.straggler.work_laws import WorkLaws

__all__ = [
    "DELAYS",
    "WAIT_P",
    "ArrivalRule",
    "Arrivals",
    "AutoDeadline",
    "Chances",
    "ChosenDeadline",
    "FaultSchedule",
    "FirstPartition",
    "FixedDeadline",
    "Planned",
    "WaitForAll",
    "WorkLaws",
    "load_delays",
    "make_chances",
    "make_delays",
    "make_stop_rule",
    "pick",
    "read_trace",
    "register_delays",
    "with_cuts",
]
