"""Delay scenarios: the same delays for every scheme (by seed, worker and step).

A delay is proportional to the worker's data: twice the partitions take twice as long. It is a floor on the time from
the start of a step to a worker's message, and the worker is free at the end of the step. With ":compute" after the
scenario's name the delay lies inside the partitions: like a slow worker, it is free only at the end of the current
partition. ``pace`` is the least time of an even share, in seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from gcdist.config import ConfigError
from gcdist.straggler import read_trace

FASTEST, SLOWEST = 0.2, 4.0  # mean extra time of the fastest and the slowest worker, in paces
MILD = 0.2
TOGETHER = 2.0
DEAD_WORKER, DEAD_STEP = 4, 10
THROTTLED, THROTTLED_SHARE, THROTTLED_SECONDS = 2, 0.25, 86400.0  # workers, the last ones
COMPUTE = ":compute"


@dataclass(frozen=True, slots=True)
class Scenario:
    """One column of the tables.

    Args:
        name: as in file names.
        about: one line for readers.
        inject: the ``inject`` section of the settings.
        faults: the ``[[faults]]``.
        rate: bytes per second of every worker's link, both ways; None: as fast as the machine.
    """

    name: str
    about: str
    inject: Mapping[str, Any] = field(default_factory=dict)
    faults: tuple[Mapping[str, Any], ...] = ()
    rate: float | None = None


def _means(workers: int) -> list[float]:
    """Mean extra times in paces: a geometric row, so that few are slow."""
    return [round(float(mean), 4) for mean in np.geomspace(FASTEST, SLOWEST, workers)]


def _exponential(workers: int, share: float, pace: float, scale: float = 1.0) -> dict[str, Any]:
    means = [scale * pace / share * mean for mean in _means(workers)]
    return {"model": "shifted-exponential", "shift": pace / share, "mean": means, "scale_with_load": True}


def _none(workers: int, share: float, pace: float) -> Scenario:
    return Scenario("none", "nobody is late")


def _shifted(workers: int, share: float, pace: float) -> Scenario:
    about = f"pace + Exp, means from {FASTEST} to {SLOWEST} paces"
    return Scenario("exponential", about, _exponential(workers, share, pace))


def _mild(workers: int, share: float, pace: float) -> Scenario:
    return Scenario(
        "mild", f"pace + Exp, means {MILD:g} times those of exponential", _exponential(workers, share, pace, MILD)
    )


def _together(workers: int, share: float, pace: float) -> Scenario:
    inject = {"model": "shifted-exponential", "shift": TOGETHER * pace / share, "mean": 0.0, "scale_with_load": True}
    return Scenario("together", f"everybody takes {TOGETHER:g} paces: all messages come at once", inject)


def _pareto(workers: int, share: float, pace: float) -> Scenario:
    shapes = np.geomspace(4.0, 1.2, workers).round(4).tolist()
    inject = {"model": "pareto", "scale": pace / share, "shape": shapes, "scale_with_load": True}
    return Scenario("pareto", "heavy tails: shapes from 4 down to 1.2", inject)


def _spells(workers: int, share: float, pace: float) -> Scenario:
    inject = {
        "model": "gilbert-elliott",
        "shift": pace / share,
        "mean": 0.2 * pace / share,
        "slowdown": 8.0,
        "slow_share": 0.1,
        "slow_spell": 10.0,
        "scale_with_load": True,
    }
    return Scenario("spells", "8 times slower for 10 steps, a tenth of the time", inject)


def _dead(workers: int, share: float, pace: float) -> Scenario:
    dies = {"kind": "kill", "worker": min(DEAD_WORKER, workers), "step": DEAD_STEP}
    about = f"worker {dies['worker']} is killed at step {DEAD_STEP}; mild delays"
    return Scenario("dead", about, _exponential(workers, share, pace, MILD), (dies,))


def _network(workers: int, share: float, pace: float) -> Scenario:
    return Scenario("network", "every worker's link carries 1 Mbit/s, nobody is late otherwise", rate=1e6 / 8)


def _throttled(workers: int, share: float, pace: float) -> Scenario:
    inject = {"model": "shifted-exponential", "shift": pace / share, "mean": 0.0, "scale_with_load": True}
    count = min(THROTTLED, workers)
    faults = tuple(
        {"kind": "throttle", "worker": rank, "step": 0, "seconds": THROTTLED_SECONDS, "share": THROTTLED_SHARE}
        for rank in range(workers - count + 1, workers + 1)
    )
    about = f"the processes of the last {count} workers run {THROTTLED_SHARE:.0%} of the time (SIGSTOP and SIGCONT in turns)"
    return Scenario("throttled", about, inject, faults)


BUILT_IN: dict[str, Callable[[int, float, float], Scenario]] = {
    "none": _none,
    "exponential": _shifted,
    "mild": _mild,
    "together": _together,
    "pareto": _pareto,
    "spells": _spells,
    "dead": _dead,
    "network": _network,
    "throttled": _throttled,
}
FORMS = (
    "trace:FILE.csv (a column a worker; its median becomes the pace); "
    f'with "{COMPUTE}" behind it (spells{COMPUTE}) delays are spent inside the partitions'
)


def make_scenario(name: str, workers: int, share: float, pace: float) -> Scenario:
    """The scenario of that name for n workers.

    Args:
        name: a built-in one, or ``trace:FILE.csv``: recorded times, scaled so that their median is the pace; with
            ``:compute`` after it the delays lie inside the partitions.
        workers: n.
        share: partitions of an even share.
        pace: seconds.

    Raises:
        ConfigError: no such scenario, or an unusable file.
    """
    if name.endswith(COMPUTE):
        plain = make_scenario(name.removesuffix(COMPUTE), workers, share, pace)
        if not plain.inject:
            raise ConfigError(f"delays: found {name!r}; {plain.name!r} has no delays that could be spent computing")
        about = f"{plain.about}; spent inside the partitions"
        return replace(plain, name=f"{plain.name}-compute", about=about, inject={**plain.inject, "where": "compute"})
    if name.startswith("trace:"):
        return _recorded(Path(name.removeprefix("trace:")), workers, share, pace)
    if name not in BUILT_IN:
        raise ConfigError(f"delays: found {name!r}; allowed: {', '.join(BUILT_IN)}, {FORMS}")
    return BUILT_IN[name](workers, share, pace)


def _recorded(path: Path, workers: int, share: float, pace: float) -> Scenario:
    try:
        seconds_TN = read_trace(path)
    except ValueError as error:
        raise ConfigError(f"delays: {error}") from None
    if seconds_TN.shape[1] < workers:
        raise ConfigError(f"delays: {path} has {seconds_TN.shape[1]} workers; {workers} are needed")
    used_TN = seconds_TN[:, :workers]
    middle = float(np.median(used_TN))
    if middle <= 0:
        raise ConfigError(f"delays: {path}: the median time is {middle:g}; it should be above 0")
    inject = {"model": "trace", "file": path.resolve(), "unit": pace / share / middle, "scale_with_load": True}
    worst = float(np.mean(used_TN.max(axis=1) / np.median(used_TN, axis=1)))
    return Scenario(path.stem, f"recorded: the slowest of a step takes {worst:.2f} times the median", inject)
