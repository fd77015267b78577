"""What if: the recorded times of a run's workers (`recorded_times`), replayed in the simulator with other deadlines, codes
and bits.

Lost workers are lost at the same step and for the same time. Gradients are synthetic vectors; their differences between
partitions follow from the run's noise.
"""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gcdist.config import Config, ConfigError, with_overrides
from gcdist.exchange.setup import Setup
from gcdist.master.driver import MasterDriver
from gcdist.observe import RunFolder
from gcdist.protocol import Peer, Round
from gcdist.report.reading import Run, absences
from gcdist.report.recorded_times import Recorded, part_seconds, way_of
from gcdist.run.cluster import Cluster
from gcdist.run.session import Session
from gcdist.simulator.clock import Clock
from gcdist.simulator.network import SMALL, Network
from gcdist.simulator.quiescence import Quiescence
from gcdist.simulator.shared_gradients import SharedGradients
from gcdist.simulator.worker import SimulatedWorker
from gcdist.tasks import Task
from gcdist.types import U8

STEPS = 200  # most steps of a replay; a longer run is thinned
COORDINATES = 4096  # most coordinates of the synthetic gradients
LEAST = 20  # fewest steps of a run that can be replayed


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a replay. Times in seconds."""

    seconds: float  # for the run's number of steps
    step_seconds: float  # mean
    counted: float  # mean messages counted a step
    noise: float  # median of the planned noise
    bytes_up: float  # of the replay's own messages


class _Links(Network):
    """Links with the recorded times: of a worker's round for its message, of recorded credits for a credit."""

    def __init__(self, setup: Setup, clock: Clock, recorded: Recorded) -> None:
        super().__init__(setup, clock)
        self._recorded = recorded
        self._steps: dict[int, int] = {}  # of the newest round of each worker
        self._answered: set[int] = set()  # workers whose message of that round has left

    def send_round(self, peer: Peer, sent: Round, state: U8) -> None:
        self._steps[peer.worker] = sent.step
        self._answered.discard(peer.worker)
        super().send_round(peer, sent, state)

    def transfer_seconds(self, slot: int, up: bool, nbytes: int) -> float:
        if not up:
            return 0.0  # the way up takes the link's time of both ways
        if nbytes > SMALL:
            self._answered.add(slot)
            return self._recorded.link(slot, self._steps.get(slot, 0))
        return (self._recorded.free_N if slot in self._answered else self._recorded.credit_N)[slot]


def _world(setup: Setup, recorded: Recorded) -> tuple[MasterDriver, Network]:
    """As `simulator.world.simulated`, with the recorded links."""
    network = _Links(setup, Clock(), recorded)
    shared = SharedGradients(setup)
    for slot in range(setup.workers):
        network.workers[slot] = worker = SimulatedWorker(slot, setup, network, shared)
        network.join(worker, 0.0)
    return MasterDriver.of(setup, network, lambda kind, text: None), network


class _Vectors:
    """Samples whose mean is the same vector; each reading differs from it by ``spread`` times its length.

    Anew at every reading, as mini-batches do: else a memory of partitions would cost nothing and win every time.
    """

    def __init__(self, count: int, spread: float, d: int) -> None:
        self._count, self._spread, self._d = count, spread, d
        self._mean = np.random.default_rng(1).standard_normal(d).astype(np.float32)
        self._readings = itertools.count()

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Tensor:
        own = np.random.default_rng((2, next(self._readings))).standard_normal(self._d).astype(np.float32)
        return torch.from_numpy(self._mean + np.float32(self._spread) * own)


class _Weights(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(d))


def _loss(model: nn.Module, batch: Any) -> Tensor:
    assert isinstance(model, _Weights)
    product: Tensor = model.w * batch.mean(0)
    return product.sum()


def made_up_task(run: Run, partitions: int) -> Task:
    """Partitions that differ as the run's steps tell; of an older run, as its plans or its noise do: observed over planned
    is 1 if they agree.
    """
    later = [plan for plan in run.plans.values() if plan.get("step", 0) > 0]  # nothing is known before the first step
    learned = [plan["disagreement"] for plan in later if isinstance(plan.get("disagreement"), float)]
    sizes = [plan["coordinates"] for plan in run.plans.values() if isinstance(plan.get("coordinates"), int)]
    planned, seen = run.series["noise_planned"], run.series["noise_observed"]
    both = np.isfinite(planned) & np.isfinite(seen) & (planned > 0)
    times = float(np.median(seen[both] / planned[both])) if both.any() else 1.0
    times = float(np.median(learned)) if learned else times
    d = min(COORDINATES, max(sizes, default=COORDINATES))
    load = float(np.mean([each.load for each in run.rounds if each.load] or [1]))
    spread = math.sqrt(max(0.0, times - 1.0) * load)
    each_step = run.series["spread"][np.isfinite(run.series["spread"])].tolist()
    of_rows = each_step or [plan["spread"] for plan in later if isinstance(plan.get("spread"), float)]
    if of_rows:  # S^2/|g|^2 within rows: a partition's term is a k-th, and the measured |g|^2 includes its noise
        ratio = float(np.median(of_rows))
        spread = partitions * math.sqrt(ratio / max(0.05, 1.0 - partitions * ratio))
    return Task(_Weights(d), _Vectors(4 * partitions, spread, d), _loss, batch_size=1)


def replayable(run: Run) -> str | None:
    """The reason why the run cannot be replayed; None: it can."""
    if not run.split:
        return "its folder has no workers.jsonl with times at the worker and on the link (an older version)"
    if run.steps < LEAST:
        return f"it has {run.steps} steps; {LEAST} are needed at least"
    if not run.config:
        return "its settings cannot be read"
    return None


def replay(run: Run, changes: Sequence[str] = (), steps: int = STEPS) -> Outcome:
    """Replay the run with some settings changed.

    Args:
        run: see `replayable`.
        changes: KEY=VALUE each, as ``--set`` takes them.
        steps: of the replay, at most.

    Raises:
        ConfigError: settings that do not fit, or a run that cannot be replayed.
    """
    why = replayable(run)
    if why is not None:
        raise ConfigError(f"{run.name} cannot be replayed: {why}")
    steps = min(steps, run.steps)
    config = _settings(run, changes, steps)
    assert config.code.partitions is not None
    before = run.setting("quantizer.bits", 4)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        session = Session.build(made_up_task(run, config.code.partitions), config, run.workers)
        recorded = Recorded(run, steps, config.quantizer.bits / before)
        session = replace(session, delays=recorded)
        driver, network = _world(session, recorded)
        folder = RunFolder(Path(place) / "replay")
        with Cluster(session, driver, folder, standstill=Quiescence(driver, network)) as cluster:
            infos = [step.backward() for step in cluster.steps(steps)]
    wall = infos[-1].seconds * run.steps / steps
    return Outcome(
        seconds=wall,
        step_seconds=wall / run.steps,
        counted=float(np.mean([len(info.arrived) for info in infos])),
        noise=float(np.median([info.noise_planned for info in infos])),
        bytes_up=sum(info.bytes_up for info in infos) * run.steps / steps,
    )


def _settings(run: Run, changes: Sequence[str], steps: int) -> Config:
    values = with_overrides(run.config, changes)
    keys = {change.partition("=")[0].strip() for change in changes}
    code = dict(values.get("code", {}))
    if "code.scheme" in keys and not any(key.startswith("code.options") for key in keys):
        code.pop("options", None)  # options of the run's own scheme do not fit another one
    code.setdefault("partitions", 2 * run.workers)
    cluster = {key: values.get("cluster", {}).get(key) for key in ("min_workers", "silent_after", "lost_after", "beat")}
    quantizer = {key: value for key, value in values.get("quantizer", {}).items() if key != "downlink"}
    straggler = dict(values.get("straggler", {}))
    data = {"holds": values["data"]["holds"]} if "holds" in values.get("data", {}) else {}
    between, choice = between_seconds(run)
    way = way_of(run)
    # only the place of the delays is the run's: `Recorded` stands for their model
    inject: dict[str, Any] = {"model": "shifted-exponential"} if way != "before" else {}
    if way == "spread":
        inject["scale_with_load"] = True
    if way in ("inside", "measured") or (way == "spread" and run.setting("inject.where", "message") == "compute"):
        inject["where"] = "compute"
    return Config(
        seed=values.get("seed", 0),
        steps=steps,
        name="replay",
        data=data,
        code=code,
        quantizer=quantizer,
        straggler=straggler,
        inject=inject,
        faults=_faults(run, steps),
        cluster={"workers": run.workers, **{key: value for key, value in cluster.items() if value is not None}},
        simulate={
            "latency": 0.0,
            "bandwidth": 1e15,
            "compute_seconds": part_seconds(run) if way == "before" else 0.0,
            "master_seconds": between,
            "choice_seconds": choice,
        },
        checkpoint={"keep": 0},
    )


def between_seconds(run: Run) -> tuple[float, float]:
    """Seconds between two steps, median, and of an automatic choice.

    Runs of older versions did not write down what choices took: there it is what all gaps together exceed their median by,
    with a choice after steps 1, 2, 4, 7, 11, .. and then every ``replan_every`` steps.
    """
    if run.steps < 2:
        return 0.0, 0.0
    gaps = np.diff(run.series["seconds"]) - run.series["step_seconds"][1:]
    usual = max(0.0, float(np.nanmedian(gaps)))
    if run.setting("code.scheme", "auto") != "auto":
        return usual, 0.0
    took = run.series["choice_seconds"]
    if np.isfinite(took).any():
        return usual, float(np.median(took[took > 0])) if (took > 0).any() else 0.0
    every, step, choices = run.setting("straggler.replan_every", 20), 1, 0
    while step <= len(gaps):
        choices += 1
        step += min(every, choices)
    return usual, max(0.0, float(np.nansum(gaps - usual))) / max(1, choices)


def _faults(run: Run, steps: int) -> list[dict[str, Any]]:
    """The workers' absences, as deaths at the same part of the run."""
    faults: list[dict[str, Any]] = []
    share = steps / run.steps
    for worker in range(run.workers):
        for first, behind in absences(run.away_TN[:, worker]):
            fault: dict[str, Any] = {"kind": "kill", "worker": worker + 1, "step": max(0, int(first * share) - 1)}
            if behind < run.steps:
                fault["seconds"] = max(1e-3, share * float(run.series["seconds"][behind - 1] - run.opened_T[first]))
            faults.append(fault)
    return faults
