"""What a loop's body did that its author may not have meant: no backward pass, a schedule that ran ahead."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau


class BodyWatch:
    """Looks at each loop body of a run and says each of its lines once.

    Args:
        parts: gives what the user tracks, by name; schedules among them are looked at.
        warn: takes a line.
    """

    def __init__(self, parts: Callable[[], Mapping[str, Any]], warn: Callable[[str], None]) -> None:
        self._parts = parts
        self._warn = warn
        self._before: dict[str, int] = {}
        self._said: set[str] = set()

    def begin(self) -> None:
        """A body begins."""
        self._before = self._epochs()

    def end(self, step: int, ran: bool, learned: bool) -> None:
        """It has ended. ``ran``: it called ``backward()``; ``learned``: that gave an estimate of the gradient."""
        if not ran:
            self._once(
                "backward",
                f"the loop's body did not call step.backward() in step {step + 1}: nothing was computed, and the same step "
                "comes again",
            )
        elif not learned:
            now = self._epochs()
            moved = [name for name, epoch in self._before.items() if now.get(name, epoch) != epoch]
            for name in moved:
                self._once(
                    name,
                    f"the schedule {name!r} went on in step {step + 1}, which gave no gradient and left the parameters "
                    "as they were: it runs ahead of them (if info.estimated: schedule.step())",
                )

    def _once(self, about: str, line: str) -> None:
        if about not in self._said:
            self._said.add(about)
            self._warn(line)

    def _epochs(self) -> dict[str, int]:
        kinds = (LRScheduler, ReduceLROnPlateau)
        return {name: part.last_epoch for name, part in self._parts().items() if isinstance(part, kinds)}
