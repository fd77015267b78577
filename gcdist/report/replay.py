"""What if: the recorded times of a run's workers, replayed in the simulator with other deadlines, codes and bits.

Each worker's rounds keep their order: a step of the replay takes the recorded round of the same part of the run.
Computing time is proportional to the worker's partitions; time on the link is proportional to the bytes, and bytes up
to the bits. A cut row gets the time of a whole row at its own pace. A dropped round takes as long as a longer round of
that worker, or, without one, its own time plus an exponential time (maximum likelihood under the cut). The time of a row
is spent inside its partitions, and a replay can cut it between them; where the run injected delays into messages, it is
spent before the first partition. Lost workers are lost at the same step and for the same time. Gradients are synthetic
vectors; their differences between partitions follow from the run's noise.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from gcdist.config import Config, ConfigError, with_overrides
from gcdist.exchange.setup import Setup
from gcdist.master.driver import MasterDriver
from gcdist.observe import RunFolder, WorkerRound
from gcdist.protocol import Peer, Round
from gcdist.report.reading import Run, absences
from gcdist.run.cluster import Cluster
from gcdist.run.session import Session
from gcdist.simulator.clock import Clock
from gcdist.simulator.network import SMALL, Network
from gcdist.simulator.quiescence import Quiescence
from gcdist.simulator.shared_gradients import SharedGradients
from gcdist.simulator.worker import SimulatedWorker
from gcdist.tasks import Task
from gcdist.types import F64, U8

STEPS = 200  # most steps of a replay; a longer run is thinned
COORDINATES = 4096  # most coordinates of the synthetic gradients
LEAST = 20  # fewest steps of a run that can be replayed
LATER = 1e-4  # seconds from the opening of a step to its round: beyond them the worker was not free
ENOUGH = 3  # least number of longer rounds from which the time of a dropped round is drawn


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a replay. Times in seconds."""

    seconds: float  # for the run's number of steps
    step_seconds: float  # mean
    counted: float  # mean messages counted a step
    noise: float  # median of the planned noise
    bytes_up: float  # of the replay's own messages


Way: TypeAlias = Literal["before", "spread", "inside", "measured"]


def _way(run: Run) -> Way:
    """How a round's time at the worker goes with its partitions: an injected delay before the first of them, spread over
    them, or inside them; measured: none was injected.
    """
    if run.setting("inject.model", "none") == "none":
        return "measured"
    if run.setting("inject.scale_with_load", False) is True:
        return "spread"
    return "inside" if run.setting("inject.where", "message") == "compute" else "before"


def _part_seconds(run: Run) -> float:
    """Median seconds that a partition computes."""
    known = [each.compute / (each.done or each.load) for each in run.rounds if each.compute and each.load]
    return float(np.median(known)) if known else 0.0


def _as_whole(each: WorkerRound, way: Way) -> WorkerRound:
    """A cut row as it would have been whole, at the pace of the partitions that were done; other rounds as they are."""
    if each.whole or not each.done or each.held is None or each.end not in ("counted", "late"):
        return each
    times = each.load / each.done
    compute, data = (each.compute or 0.0) * times, (each.data or 0.0) * times
    if way in ("spread", "inside"):
        held = each.held * each.load / (each.done + 0.5)  # the next one was half done, on average
    else:
        held = each.held + (compute + data) * (1.0 - 1.0 / times)
    held = max(held, each.held)
    seconds = each.seconds + held - each.held
    return replace(each, seconds=seconds, held=held, compute=compute, data=data, done=each.load)


def _until_free(mine: Sequence[WorkerRound], opened: Mapping[int, float]) -> float:
    """Median seconds from a message's arrival to the next round, where that was sent after its step had been opened: the
    credit behind the message was still on the link.
    """
    gaps = [
        after.sent - (before.sent + before.seconds)
        for before, after in pairwise(sorted(mine, key=lambda each: each.sent))
        if before.end in ("counted", "late") and after.sent > opened.get(after.step, math.inf) + LATER
    ]
    return max(0.0, float(np.median(gaps))) if gaps else 0.0


class Recorded:
    """The recorded times at the worker as a delay model (`types.DelayModel`), and those on the link.

    Args:
        run: with rounds that separate the link from the work.
        steps: of the replay.
        bits: of the replay over those of the run.
        seed: of the times drawn for dropped rounds.
    """

    def __init__(self, run: Run, steps: int, bits: float, seed: int = 0) -> None:
        self._steps = steps
        way = _way(run)
        self.part_seconds = _part_seconds(run) if way == "before" else 0.0  # the simulator adds them after the delay
        rng = np.random.default_rng(seed)
        self._at: list[F64] = []  # of each worker: place of its rounds in the run, from 0 to 1
        self._terms: list[F64] = []  # (rounds, 4): seconds a partition, fixed, least at the worker, link
        self.credit_N: list[float] = []
        self.free_N: list[float] = []  # seconds from a message's arrival until its worker counts as free
        opened = dict(zip(run.step_T.tolist(), run.opened_T.tolist(), strict=True))
        first, length = (int(run.step_T[0]), max(1, int(run.step_T[-1] - run.step_T[0]))) if run.steps else (0, 1)
        every = [each for each in run.rounds if each.held is not None and each.end != "lost"]
        for worker in range(1, run.workers + 1):
            mine = [each for each in every if each.worker == worker] or every
            rounds, held = _finished([_as_whole(each, way) for each in mine], rng)
            rows = []
            for each, seconds in zip(rounds, held, strict=True):
                part = (each.compute or 0.0) / each.load if each.load else 0.0
                rest = max(0.0, seconds - part * each.load)
                least = 0.0
                if way == "spread" and each.load:
                    part, rest = seconds / each.load, 0.0
                elif way == "inside":  # as long with fewer partitions
                    rest, least = 0.0, seconds
                elif way == "before":
                    part, rest, least = 0.0, 0.0, max(0.0, seconds - self.part_seconds * (each.load - 1))
                size = each.down + each.up
                link = (each.link or 0.0) * ((each.down + bits * each.up) / size if size else 1.0)
                rows.append((part, rest, least, link))
            # the worker of a dropped round sends only its credit
            credits = [each.link for each in mine if each.end == "stale" and each.link is not None]
            self.credit_N.append(float(np.median(credits)) if credits else 0.0)
            self.free_N.append(_until_free(mine, opened))
            self._at.append(np.array([(each.step - first) / length for each in rounds]))
            self._terms.append(np.array(rows, np.float64).reshape(-1, 4))

    def seconds(self, worker: int, step: int, load: float, seed: int) -> float:
        """At the worker, in the round recorded at the same part of the run."""
        terms = self._round(worker, step)
        return float(_held(terms, load)[0]) if len(terms) else 0.0

    def link(self, worker: int, step: int) -> float:
        """On the link, both ways, in the same round."""
        terms = self._round(worker, step)
        return float(terms[0, 3]) if len(terms) else 0.0

    def _round(self, worker: int, step: int) -> F64:
        """The terms (1, 4) of the round nearest to the step's place in the run; (0, 4) if there is none."""
        at, place = self._at[worker], step / max(1, self._steps - 1)
        k = int(np.searchsorted(at, place))
        if k == len(at) or (k > 0 and place - at[k - 1] < at[k] - place):
            k -= 1
        return self._terms[worker][max(0, k) : max(0, k) + 1]

    def survival(self, worker: int, load: F64, t: float) -> F64:
        """The share of longer rounds among the recorded ones."""
        terms = self._terms[worker]
        if not len(terms):
            return np.zeros(len(load))
        return np.array([float((_held(terms, float(each)) + terms[:, 3] > t).mean()) for each in load])


def _held(terms: F64, load: float) -> F64:
    return np.maximum(terms[:, 0] * load + terms[:, 1], terms[:, 2])


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

    def _transfer_seconds(self, slot: int, up: bool, nbytes: int) -> float:
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


def _finished(mine: Sequence[WorkerRound], rng: np.random.Generator) -> tuple[list[WorkerRound], list[float]]:
    """The rounds with a gradient, in order, and their seconds at the worker, estimated for dropped ones."""
    most = max((each.up for each in mine), default=0)
    done = [each for each in mine if each.whole and each.up >= most / 4]
    if not done:
        done = [each for each in mine if each.whole]
    dropped = [each for each in mine if not each.whole]
    rounds = sorted([*done, *dropped], key=lambda each: (each.step, each.sent))
    lengths = np.array([each.seconds for each in done])
    shortest = float(lengths.min()) if len(done) else 0.0
    excess = sum(max(0.0, each.seconds - shortest) for each in rounds) / max(1, len(done))
    kept, held = [], []
    for each in rounds:
        if each.whole:
            kept.append(each)
            held.append(each.held or 0.0)
            continue
        longer = np.flatnonzero(lengths > each.seconds)
        if len(longer) >= ENOUGH or (len(longer) and len(done) <= 2 * ENOUGH):
            other = done[int(rng.choice(longer))]
            kept.append(replace(other, step=each.step))
            held.append(other.held or 0.0)
        else:
            kept.append(replace(each, compute=each.held))  # a dropped round's time is proportional to the load
            held.append((each.held or 0.0) + float(rng.exponential(excess or each.seconds)))
    return kept, held


class _Vectors:
    """Samples whose mean is the same vector; each differs from it by ``spread`` times its length."""

    def __init__(self, count: int, spread: float, d: int) -> None:
        self._count, self._spread, self._d = count, spread, d
        self._mean = np.random.default_rng(1).standard_normal(d).astype(np.float32)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Tensor:
        own = np.random.default_rng((2, index)).standard_normal(self._d).astype(np.float32)
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
    """Partitions that differ as the run's plans tell; of an older run, as its noise does: observed over planned is 1 if
    they agree.
    """
    learned = [plan["disagreement"] for plan in run.plans.values() if isinstance(plan.get("disagreement"), float)]
    sizes = [plan["coordinates"] for plan in run.plans.values() if isinstance(plan.get("coordinates"), int)]
    planned, seen = run.series["noise_planned"], run.series["noise_observed"]
    both = np.isfinite(planned) & np.isfinite(seen) & (planned > 0)
    times = float(np.median(seen[both] / planned[both])) if both.any() else 1.0
    times = float(np.median(learned)) if learned else times
    d = min(COORDINATES, max(sizes, default=COORDINATES))
    load = float(np.mean([each.load for each in run.rounds if each.load] or [1]))
    spread = math.sqrt(max(0.0, times - 1.0) * load)
    of_rows = [plan["spread"] for plan in run.plans.values() if isinstance(plan.get("spread"), float)]
    if of_rows:  # S^2/|g|^2 from cut rows: a partition's term is a k-th, and the measured |g|^2 includes its noise
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
    gaps = np.diff(run.series["seconds"]) - run.series["step_seconds"][1:]
    between = max(0.0, float(np.nanmedian(gaps))) if run.steps > 1 else 0.0
    way = _way(run)
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
            "compute_seconds": _part_seconds(run) if way == "before" else 0.0,
            "master_seconds": between,
        },
        checkpoint={"keep": 0},
    )


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
