"""The settings of injected faults: one table of ``[[faults]]`` each."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from gcdist.config.section import Positive, Seconds, Section
from gcdist.types import Corruption, FaultKind

# keys that each kind must have, and those that it may have
FAULT_KEYS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "kill": ((), ("seconds",)),
    "stop": (("seconds",), ()),
    "cut": (("seconds",), ()),
    "slow": (("seconds", "rate"), ()),
    "corrupt": ((), ("what",)),
    "delay": (("seconds",), ()),
    "throttle": (("seconds", "share"), ()),
}
AT_MASTER = ("kill", "stop")


class FaultConfig(Section):
    """One fault that is injected for a drill: what, at whom, when.

    ``worker`` is a rank (0: the master); absent: a worker that is here, drawn anew each time. It strikes as ``step`` opens,
    or at random times, ``every`` so many seconds in the mean; with neither it only allows `Cluster.inject` its kind.
    ``seconds``: how long it lasts (kill, in the simulator: until the worker is started again; absent: never). ``rate``:
    bytes a second. ``share``: of the time that a throttled process runs, between 0 and 1.
    """

    kind: FaultKind
    worker: Annotated[int, Field(ge=0)] | None = None
    step: Annotated[int, Field(ge=0)] | None = None
    every: Seconds | None = None
    seconds: Seconds | None = None
    rate: Positive | None = None
    what: Corruption | None = None
    share: Annotated[float, Field(gt=0, lt=1)] | None = None

    @model_validator(mode="after")
    def _check(self) -> FaultConfig:
        must, may = FAULT_KEYS[self.kind]
        strikes = self.step is not None or self.every is not None
        wrong = [f'{key}: missing; "{self.kind}" needs it' for key in must if strikes and getattr(self, key) is None]
        wrong += [
            f'{key}: found {getattr(self, key)!r}; "{self.kind}" does not use it'
            for key in ("seconds", "rate", "what", "share")
            if getattr(self, key) is not None and key not in must + may
        ]
        if self.step is not None and self.every is not None:
            wrong.append(f"every: found {self.every}; step = {self.step} is given, and only one of them can be")
        if self.worker == 0 and self.kind not in AT_MASTER:
            wrong.append(
                f'worker: found 0; the master can be struck by {" and ".join(AT_MASTER)}, not by "{self.kind}"'
            )
        if wrong:
            raise ValueError("\n".join(wrong))
        return self
