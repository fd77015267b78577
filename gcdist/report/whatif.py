"""The what-if table: replays of a run with some settings changed, each beside the run itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gcdist.config import ConfigError
from gcdist.observe import bytes_text
from gcdist.report.reading import Run
from gcdist.report.verdict import seconds_text

if TYPE_CHECKING:
    from gcdist.report.replay import Outcome


@dataclass(frozen=True, slots=True)
class WhatIf:
    """One replay. ``bytes_up`` is scaled by the run's own bytes over those of its plain replay."""

    changes: tuple[str, ...]  # none: the unchanged run
    seconds: float
    step_seconds: float
    times: float  # wall clock over that of the recorded run
    counted: float
    noise: float
    bytes_up: float

    @property
    def setting(self) -> str:
        """The changes in words."""
        return ", ".join(self.changes) or "as it was, replayed"

    def cells(self) -> list[str]:
        """The figures for people, after the setting: the columns of the page's table."""
        return [
            seconds_text(self.seconds),
            seconds_text(self.step_seconds),
            f"{self.times:.2f} times",
            f"{self.counted:.1f}",
            f"{self.noise:.3g}",
            bytes_text(self.bytes_up),
        ]

    def line(self) -> str:
        """All of it in a line."""
        wall, step, times, counted, noise, up = self.cells()
        return (
            f"What if {self.setting}: {wall} ({step} a step, {times} the run's), {counted} counted a step, noise {noise}, "
            f"{up} up"
        )


def outcomes(run: Run, changes: Sequence[Sequence[str]], say: Callable[[str], None]) -> list[WhatIf]:
    """Replay the unchanged run, then each of the changes; a line names each change that cannot be replayed.

    Raises:
        ConfigError: the run cannot be replayed at all.
    """
    from gcdist.report.replay import replay, replayable  # imports torch: two seconds that a report alone saves

    why = replayable(run)
    if why is not None:
        raise ConfigError(f"--what-if: {run.name} cannot be replayed: {why}")
    plain = replay(run)
    real = float(run.series["seconds"][-1])
    sent = float(np.nansum(run.series["bytes_up"])) / plain.bytes_up if plain.bytes_up else math.nan

    def row(made: Sequence[str], found: Outcome) -> WhatIf:
        times = found.seconds / real if real > 0 else math.nan
        up = sent * found.bytes_up
        return WhatIf(tuple(made), found.seconds, found.step_seconds, times, found.counted, found.noise, up)

    rows = [row((), plain)]
    for made in changes:
        try:
            rows.append(row(made, replay(run, made)))
        except ConfigError as error:
            say(f"--what-if {', '.join(made)}: {error}")
    return rows


def usual_changes(run: Run) -> list[list[str]]:
    """The usual changes: half and twice the deadline, a wait for all, a learned deadline, other codes and bits."""
    known = run.series["deadline"][min(5, run.steps // 5) :]
    known = known[np.isfinite(known) & (known > 0)]
    middle = float(np.median(known)) if len(known) else math.nan
    factors = (0.5, 0.75, 1.5, 2.0) if math.isfinite(middle) else ()
    changes = [[f"straggler.deadline={factor * middle:.3g}"] for factor in factors]
    scheme, bits = run.setting("code.scheme", "auto"), run.setting("quantizer.bits", 4)
    if run.setting("straggler.deadline", "auto") != "auto":
        changes.append(['straggler.deadline="auto"'])
    changes += [[f'code.scheme="{name}"'] for name in ("auto", "joint", "ignore-rescaled") if name != scheme]
    changes.append(['code.scheme="sync"', 'straggler.deadline="wait"'])
    if run.setting("quantizer.name", "") not in ("float32", "bfloat16"):
        changes += [[f"quantizer.bits={width}"] for width in (2, 8) if width != bits]
    return changes
