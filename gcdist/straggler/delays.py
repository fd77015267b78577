"""Delay models: the floors that workers inject, and the chance to be above a time.

A delay is a pure function of (worker, step, load, seed), so that every scheme meets the same delays (common random
numbers). Sources: math section 8; the shifted exponential is that of papers 1 and 2.
"""

from __future__ import annotations

import csv
import math
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from gcdist.hashing import hashed, hashed_many
from gcdist.names import nearest
from gcdist.types import F64, DelayModel

Numbers: TypeAlias = float | Sequence[float]


def uniform(seed: int, worker: int, step: int, stream: int = 0) -> float:
    """A number in (0, 1), a function of its arguments alone; ``step`` may be negative.

    >>> uniform(0, 1, 2) == uniform(0, 1, 2) != uniform(0, 1, 3)
    True
    """
    return ((hashed(seed, worker, step, stream) >> 11) + 0.5) * 2.0**-53


_BLOCK = 64  # workers whose numbers are drawn at once: one of them costs a tenth of its own call


@lru_cache(1024)
def _uniforms(seed: int, block: int, step: int) -> list[float]:
    """`uniform` of the workers 64 block to 64 block + 63."""
    worker_N = np.arange(_BLOCK * block, _BLOCK * (block + 1))
    begin = hashed_many(worker_N, np.array(hashed(seed), np.uint64))
    for word in (step, 0):
        begin = hashed_many(np.array([word]), begin)
    numbers: list[float] = (((begin >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53).tolist()
    return numbers


def _own_uniform(seed: int, worker: int, step: int) -> float:
    """`uniform` of one worker among many that are asked for in turn."""
    return _uniforms(seed, worker // _BLOCK, step)[worker % _BLOCK]


@dataclass(frozen=True, slots=True)
class NoDelay:
    """No floor: every delay is 0."""

    def seconds(self, worker: int, step: int, load: float, seed: int) -> float:
        """0."""
        return 0.0

    def survival(self, worker: int, load: F64, t: float) -> F64:
        """P(0 > t)."""
        return np.full(np.shape(load), float(t < 0))


@dataclass(frozen=True, slots=True)
class ShiftedExponential:
    """``s_i + Exp(mean m_i)``; with ``scale_with_load`` at load l: ``l s_i + Exp(mean l m_i)`` (math section 8)."""

    shift_N: tuple[float, ...]  # seconds
    mean_N: tuple[float, ...]  # seconds, of the exponential part
    scale_with_load: bool = False

    def seconds(self, worker: int, step: int, load: float, seed: int) -> float:
        """Seconds of this worker at this step."""
        base = self.shift_N[worker] - self.mean_N[worker] * math.log(_own_uniform(seed, worker, step))
        return base * load if self.scale_with_load else base

    def survival(self, worker: int, load: F64, t: float) -> F64:
        """P(seconds > t)."""
        beyond = _unit_time(load, t, self.scale_with_load) - self.shift_N[worker]
        mean = self.mean_N[worker]
        if mean == 0:
            return (beyond < 0).astype(np.float64)
        tail: F64 = np.exp(-np.maximum(beyond, 0.0) / mean)
        return tail


@dataclass(frozen=True, slots=True)
class Pareto:
    """Pareto delays: ``P(T > t) = (scale/t)^shape`` for ``t >= scale``; times load with ``scale_with_load``."""

    scale_N: tuple[float, ...]  # seconds, the least delay
    shape_N: tuple[float, ...]  # at most 1: no mean; at most 2: no variance
    scale_with_load: bool = False

    def seconds(self, worker: int, step: int, load: float, seed: int) -> float:
        """Seconds of this worker at this step."""
        base = self.scale_N[worker] * math.exp(-math.log(_own_uniform(seed, worker, step)) / self.shape_N[worker])
        return base * load if self.scale_with_load else base

    def survival(self, worker: int, load: F64, t: float) -> F64:
        """P(seconds > t)."""
        scale = self.scale_N[worker]
        time = np.maximum(_unit_time(load, t, self.scale_with_load), scale)
        tail: F64 = np.power(scale / time, self.shape_N[worker])
        return tail


@dataclass(frozen=True, slots=True)
class GilbertElliott:
    """Persistent slow spells: a shifted exponential, ``slowdown`` times longer while the worker's chain is slow.

    The two-state chain leaves the slow state with probability ``b = 1/slow_spell`` a step and enters it with
    ``a = b slow_share/(1 - slow_share)``. It is read without walking: a step sets "slow" with probability a, "fast" with
    b and else keeps the state, so that the state is that of the last step that set it (a stationary start included).
    """

    fast: ShiftedExponential
    slowdown: float
    slow_share: float  # long-run share of slow steps
    slow_spell: float  # mean steps of a slow spell

    def __post_init__(self) -> None:
        if self.slow_spell * (1 - self.slow_share) < 1:
            raise ValueError(
                f"slow_spell: found {self.slow_spell}; should be at least 1/(1 - slow_share) = "
                f"{1 / (1 - self.slow_share):.3g} steps"
            )

    def slow(self, worker: int, step: int, seed: int) -> bool:
        """Whether the worker is in a slow spell; about ``slow_spell (1 - slow_share)`` steps are looked back."""
        if self.slow_share == 0:
            return False
        leave = 1 / self.slow_spell
        enter = leave * self.slow_share / (1 - self.slow_share)
        while (u := uniform(seed, worker, step, stream=1)) >= enter + leave:
            step -= 1
        return u < enter

    def seconds(self, worker: int, step: int, load: float, seed: int) -> float:
        """Seconds of this worker at this step."""
        base = self.fast.seconds(worker, step, load, seed)
        return base * self.slowdown if self.slow(worker, step, seed) else base

    def survival(self, worker: int, load: F64, t: float) -> F64:
        """P(seconds > t) in the long run, not given the present state."""
        slow, fast = self.fast.survival(worker, load, t / self.slowdown), self.fast.survival(worker, load, t)
        tail: F64 = self.slow_share * slow + (1 - self.slow_share) * fast
        return tail


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Recorded seconds: row ``step`` (wrapping around at the end), column ``worker``; ``seed`` moves the first row."""

    seconds_TN: F64
    scale_with_load: bool = False

    def seconds(self, worker: int, step: int, load: float, seed: int) -> float:
        """Seconds of this worker at this step."""
        base = float(self.seconds_TN[(step + seed) % len(self.seconds_TN), worker])
        return base * load if self.scale_with_load else base

    def survival(self, worker: int, load: F64, t: float) -> F64:
        """Share of the recorded steps above t."""
        time = _unit_time(load, t, self.scale_with_load)
        ordered = np.sort(self.seconds_TN[:, worker])
        tail: F64 = 1.0 - np.searchsorted(ordered, time, side="right") / len(ordered)
        return tail


def _unit_time(load: F64, t: float, scale_with_load: bool) -> F64:
    """``t`` for each load as seconds at load 1; a load of 0 is done at once."""
    load = np.asarray(load, np.float64)
    if not scale_with_load:
        return np.full(load.shape, float(t))
    time = np.full(load.shape, math.inf if t >= 0 else -math.inf)
    np.divide(t, load, out=time, where=load > 0)
    return time


def read_trace(path: str | Path, unit: float = 1.0) -> F64:
    """Recorded seconds (T, N) of a CSV file with a header: a first column to count rounds, then a column a worker.

    ``unit`` is the seconds of one unit of the file. ValueError names the line that is not numbers of at least 0.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:  # with or without a byte order mark
            lines = list(csv.reader(file))
    except OSError as error:
        raise ValueError(f"file: {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"file: {path} is not UTF-8 text; save it as CSV in UTF-8") from None
    except csv.Error as error:
        raise ValueError(f"file: {path} is no CSV file: {error}") from None
    if lines and len(lines[0]) == 1 and (mark := next((c for c in ";\t|" if c in lines[0][0]), "")):
        raise ValueError(
            f"file: {path}, line 1: its columns are separated by {mark!r}; should be by commas, with decimal points: "
            f"{lines[0][0][:60]!r}"
        )
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        try:
            row = [float(cell) * unit for cell in line[1:]]
        except ValueError:
            row = []
        if not row or len(row) != len(lines[0]) - 1 or not all(0 <= x < math.inf for x in row):
            raise ValueError(f"file: {path}, line {number}: should be {len(lines[0]) - 1} numbers of at least 0")
        rows.append(row)
    if not rows:
        raise ValueError(f"file: {path} has no recorded steps: a header and at least one line are needed")
    return np.array(rows)


def _per_worker(name: str, value: Numbers, workers: int, above: float | None = None) -> tuple[float, ...]:
    """``value`` for each worker; at least 0, or above ``above`` where that is given."""
    numbers = (float(value),) * workers if isinstance(value, (int, float)) else tuple(float(x) for x in value)
    if len(numbers) != workers:
        raise ValueError(f"{name}: found a list of {len(numbers)} for {workers} workers; give one number for each")
    if not all(math.isfinite(x) and (x >= 0 if above is None else x > above) for x in numbers):
        raise ValueError(
            f"{name}: found {list(numbers)}; should be {'at least 0' if above is None else f'above {above}'}"
        )
    return numbers


def _none(workers: int) -> DelayModel:
    return NoDelay()


def _shifted(workers: int, shift: Numbers = 0.0, mean: Numbers = 0.0, scale_with_load: bool = False) -> DelayModel:
    return ShiftedExponential(_per_worker("shift", shift, workers), _per_worker("mean", mean, workers), scale_with_load)


def _pareto(workers: int, scale: Numbers, shape: Numbers, scale_with_load: bool = False) -> DelayModel:
    return Pareto(
        _per_worker("scale", scale, workers, above=0), _per_worker("shape", shape, workers, above=0), scale_with_load
    )


def _spells(
    workers: int,
    shift: Numbers = 0.0,
    mean: Numbers = 0.0,
    slowdown: float = 1.0,
    slow_share: float = 0.0,
    slow_spell: float = 1.0,
    scale_with_load: bool = False,
) -> DelayModel:
    shift_N, mean_N = _per_worker("shift", shift, workers), _per_worker("mean", mean, workers)
    fast = ShiftedExponential(shift_N, mean_N, scale_with_load)
    return GilbertElliott(fast, slowdown, slow_share, slow_spell)


def _trace(workers: int, file: str | Path, unit: float = 1.0, scale_with_load: bool = False) -> DelayModel:
    seconds_TN = read_trace(file, unit)
    if seconds_TN.shape[1] < workers:
        raise ValueError(f"file: {file} has {seconds_TN.shape[1]} workers; {workers} are needed")
    return Trace(seconds_TN[:, :workers], scale_with_load)


DELAYS: dict[str, Callable[..., DelayModel]] = {
    "none": _none,
    "shifted-exponential": _shifted,
    "pareto": _pareto,
    "gilbert-elliott": _spells,
    "trace": _trace,
}


def make_delays(model: str, workers: int, **params: Any) -> DelayModel:
    """The delay model of that name; ``params`` are the keys of the config's inject section that it reads.

    Numbers may be lists, one for each worker. ValueError in one line: the key, what was found, what is allowed.

    >>> make_delays("shifted-exponential", 2, shift=0.1, mean=[0.0, 0.5]).seconds(0, step=3, load=4.0, seed=1)
    0.1
    """
    if model not in DELAYS:
        near = nearest(model, DELAYS)
        hint = f'did you mean "{near}"? ' if near else ""
        raise ValueError(f'model: found "{model}"; {hint}allowed: {", ".join(DELAYS)}')
    try:
        return DELAYS[model](workers, **params)
    except TypeError as error:
        text = str(error).partition("() ")[2] or str(error)
        raise ValueError(f'delay model "{model}" {text}') from None


def register_delays(model: str, build: Callable[..., DelayModel]) -> None:
    """Add a delay model of one's own, in every process of the run: ``build(workers, **options)``.

    Raises:
        ValueError: the name is taken by another model.
    """
    if DELAYS.setdefault(model, build) is not build:
        raise ValueError(f"delay model {model!r} is there already: choose another name")


def load_delays(path: str | Path) -> tuple[DelayModel, int]:
    """The delay model and number of workers of a TOML file: the keys of the config's inject section, and ``workers``.

    A relative ``file`` of a trace is taken from the folder of ``path``. ValueError in one line that names the file.
    """
    path = Path(path)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: is not UTF-8 text; save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: not valid TOML: {error}") from None
    workers = values.pop("workers", None)
    if not isinstance(workers, int) or isinstance(workers, bool) or workers < 1:
        raise ValueError(f"{path}: workers: found {workers}; should be a whole number of at least 1")
    model = values.pop("model", None)
    if isinstance(values.get("file"), str):
        values["file"] = path.parent / values["file"]
    try:
        return make_delays(str(model), workers, **values), workers
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None
