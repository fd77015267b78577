"""One run of the benchmark: its settings (`Cell`) and its result (`Outcome`), each a JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from gcdist.bench.problems import LOSS, get_problem
from gcdist.bench.scenarios import Scenario, make_scenario
from gcdist.bench.schemes import SCHEMES, BenchScheme
from gcdist.config import Config, ConfigError
from gcdist.observe import plain
from gcdist.whole_file import write_whole

Status = Literal["reached", "budget", "diverged", "stopped", "failed"]
IN_A_ROW = 2  # evaluations in a row below the target, for "reached"
EXPLODED = 100.0  # times the first loss: above it, the run has diverged
FOREVER = 1_000_000_000  # steps: never met, because the target or the budget ends a run
Deadline: TypeAlias = float | Literal["wait", "auto"]


@dataclass(frozen=True, slots=True)
class Cell:
    """One run: a scheme, a scenario and a seed, with the tuned step size and deadline.

    Args:
        delays: name of the scenario, as `make_scenario` takes it.
        target: of the loss; a run ends when it is below ``IN_A_ROW`` times in a row.
        budget: seconds after which a run ends without the target.
        share: partitions of an even share, each of the problem's samples a step; None: the problem's own number.
    """

    problem: str
    delays: str
    scheme: str
    workers: int
    seed: int
    lr: float
    deadline: Deadline
    pace: float
    target: float
    budget: float
    share: int | None = None

    @property
    def even_share(self) -> int:
        """Partitions of an even share."""
        return get_problem(self.problem).share if self.share is None else self.share

    @property
    def scenario(self) -> Scenario:
        """The delays; the pace is that of the problem's own share, so that half of the share takes half as long."""
        return make_scenario(self.delays, self.workers, get_problem(self.problem).share, self.pace)

    @property
    def what(self) -> BenchScheme:
        """The scheme."""
        return get_scheme(self.scheme)

    @property
    def place(self) -> Path:
        """Of its file, below the benchmark's folder."""
        return Path(self.problem, self.scenario.name, self.scheme, f"seed{self.seed}.json")

    def config(self, machine: Mapping[str, float] | None = None) -> Config:
        """The settings of its run; ``machine``: of the ``simulate`` section, for the simulator."""
        problem, scenario, scheme = get_problem(self.problem), self.scenario, self.what
        options = {**problem.options, "seed": self.seed}
        return Config(
            seed=self.seed,
            steps=FOREVER,
            task={"name": problem.task, "batch_size": problem.batch_size, "options": options},
            code={"partitions": self.even_share * self.workers, **scheme.code},
            quantizer=dict(scheme.quantizer),
            straggler={"deadline": self.deadline},
            inject=dict(scenario.inject),
            faults=[dict(fault) for fault in scenario.faults],
            cluster={"workers": self.workers, "min_workers": max(1, self.workers - 1), "start_timeout": 60.0},
            checkpoint={"keep": 0},
            simulate={**(machine or {}), **({} if scenario.rate is None else {"bandwidth": scenario.rate})},
        )

    def with_choice(self, lr: float, deadline: Deadline, share: int | None, seed: int | None = None) -> Cell:
        """The same with another step size, deadline, samples of a step, and seed."""
        return replace(self, lr=lr, deadline=deadline, share=share, seed=self.seed if seed is None else seed)


@dataclass(slots=True)
class Outcome:
    """The result of a run.

    ``curve``: (steps, seconds, loss, accuracy or NaN, bytes up). Seconds: ``ends``, when each step ended; ``rounds``, from
    its opening to its close (empty for DDP).
    """

    status: Status = "failed"
    seconds: float = float("nan")  # until the target was first reached; NaN: it was not
    steps: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    curve: list[tuple[int, float, float, float, int]] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    rounds: list[float] = field(default_factory=list)
    arrived: float = float("nan")  # workers a step
    cpu_seconds: float = float("nan")  # processor time of a partition; NaN: DDP, or no arrival
    choice_seconds: float = float("nan")  # of an automatic choice, median; NaN: there was none
    why: str = ""

    @property
    def best(self) -> float:
        """The least loss seen."""
        return min((row[2] for row in self.curve), default=float("nan"))

    def look(self, steps: int, seconds: float, metrics: Mapping[str, float], target: float, budget: float) -> bool:
        """Take in an evaluation of the loss; True if the run is over."""
        loss, accuracy = metrics[LOSS], metrics.get("test_accuracy", float("nan"))
        self.curve.append((steps, seconds, loss, accuracy, self.bytes_up))
        self.steps = steps
        below = [row[2] < target for row in self.curve[-IN_A_ROW:]]
        if len(below) == IN_A_ROW and all(below):
            self.status, self.seconds = "reached", self.curve[-IN_A_ROW][1]
        elif not np.isfinite(loss) or loss > EXPLODED * max(self.curve[0][2], target):
            self.status, self.why = "diverged", f"the loss is {loss:.3g}"
        elif seconds > budget:
            self.status = "budget"
        else:
            return False
        return True


def get_scheme(name: str) -> BenchScheme:
    """The scheme of that name; ConfigError."""
    if name not in SCHEMES:
        raise ConfigError(f"schemes: found {name!r}; allowed: {', '.join(SCHEMES)}")
    return SCHEMES[name]


def write_json(path: Path, values: Mapping[str, Any] | Sequence[Any]) -> None:
    """The file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(plain(values), indent=1, allow_nan=False) + "\n")


def write_outcome(path: Path, cell: Cell, outcome: Outcome) -> None:
    """The cell and its outcome."""
    write_json(path, {"cell": asdict(cell), "outcome": asdict(outcome)})


def _number(value: float | None) -> float:
    """JSON has no NaN."""
    return float("nan") if value is None else float(value)


def read_outcome(path: Path) -> tuple[Cell, Outcome]:
    """Read a file of `write_outcome`; ConfigError names any other file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        values = found["outcome"]
        values |= {name: _number(values.get(name)) for name in ("seconds", "arrived", "cpu_seconds", "choice_seconds")}
        values["curve"] = [(row[0], *map(_number, row[1:4]), row[4]) for row in values["curve"]]
        outcome = Outcome(**values)
        return Cell(**found["cell"]), outcome
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: not a result of this benchmark ({error}); remove it to run it again") from None
