"""What one step gave, for everybody who counts, records or shows it."""

from __future__ import annotations

from dataclasses import dataclass

from gcdist.master.aggregator import Counted
from gcdist.protocol.messages import CloseWhy
from gcdist.types import F32, Mask, Plan, Seen, StepTerms


@dataclass(frozen=True, slots=True, eq=False)
class RoundResult:
    """What one step gave. ``gradient`` (d,) float32, or None when nothing is known (skip the optimizer)."""

    step: int
    gradient: F32 | None
    energy: float  # |gradient|^2; 0 if it is None
    why: CloseWhy
    seconds: float
    counted: tuple[Counted, ...]
    plan: Plan
    terms: StepTerms
    live_N: Mask
    seen: tuple[Seen, ...]  # outcomes observed since the last step was closed, of older steps too
    messages: int  # with a gradient, that arrived since the last step was closed, late and dropped ones too
    payload_bytes: int  # of these
    down_saved: int  # bytes less than with float32 parameters, in the rounds sent
    promised: bool  # p is a promise about a deadline (not a warm-up, not waiting for all)
    choice_seconds: float = 0.0  # that the master spent on automatic choices
