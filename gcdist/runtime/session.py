"""A run's parts, built from a task and its settings: the same at master, worker and simulator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from gcdist.coding import WAITING, get_code, least_noise
from gcdist.config import Config, ConfigError, shared_settings
from gcdist.planning import PlanReport
from gcdist.protocol import PROTOCOL, Hello
from gcdist.quantize import get_quantizer
from gcdist.runtime.compute import PartitionGradients
from gcdist.runtime.device import CPU, pick_device
from gcdist.runtime.plans import Holds, PlanIds, PlanMaker, noise_by_bits
from gcdist.runtime.scheme import Scheme
from gcdist.runtime.state import ModelState
from gcdist.straggler import ArrivalRule, Arrivals, WaitForAll, make_delays, make_stop_rule
from gcdist.tasks import Task, TaskError, load_task, partition_by
from gcdist.types import F64, DelayModel, GradientCode, Plan, Quantizer

T = TypeVar("T")
ALLOCATED = ("osgc", "joint", "self-normalised", "shifted")  # schemes that read code.allocation
HEADROOM_MOST = 1.5  # of an automatic deadline over the times seen, for plans that give a worker more than it had
MOST_HELD = 2000  # partitions that a Hello has room to name
OnPlan = Callable[[Plan, PlanReport, float], None]


@cache
def _version() -> str:
    """Read once: ten thousand simulated workers say it."""
    return version("gcdist")


def checked(section: str, build: Callable[[], T]) -> T:
    """Build a part; its ValueError becomes a ConfigError that names the section."""
    try:
        return build()
    except ConfigError:
        raise
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{section}: {error}") from None


@dataclass(frozen=True, slots=True, eq=False)
class Session:
    """Everything that both ends make alike. ``config`` is resolved for ``workers``."""

    task: Task
    config: Config
    workers: int
    state: ModelState
    gradients: PartitionGradients
    quantizer: Quantizer
    code: GradientCode
    delays: DelayModel
    plan_ids: PlanIds = field(default_factory=PlanIds)

    @staticmethod
    def build(task: Task, config: Config, workers: int, own: bool) -> Session:
        """Check the settings against the task and make the parts.

        Args:
            own: this process only computes: its model moves to the settings' device, and on the CPU the parameters become
                views of one flat vector.

        Raises:
            ConfigError: what does not fit, in one line.
        """
        config = config.resolved(workers)
        k = config.code.partitions
        assert k is not None
        task = _cut_by(task, config)
        options = dict(config.code.options)
        if config.code.scheme in ALLOCATED:
            options.setdefault("allocation", config.code.allocation)
        device = checked("compute", lambda: pick_device(config.compute.device)) if own else CPU
        if own:
            task.model.to(device)
        state = checked("task", lambda: ModelState(task.model, own, config.quantizer.downlink, device))
        quantizer = checked("quantizer", lambda: get_quantizer(config.quantizer.name, **config.quantizer.options))
        if not np.isfinite(noise_by_bits(quantizer, state.layout.d)[config.quantizer.bits]):
            raise ConfigError(f"quantizer.bits: {quantizer.name!r} does not take {config.quantizer.bits} bits")
        gradients = checked("task", lambda: PartitionGradients(task, state, k, config.seed, config.data.sampling))
        session = Session(
            task,
            config.with_steps(gradients.batches.steps_per_epoch),
            workers,
            state,
            gradients,
            quantizer,
            checked("code", lambda: get_code(config.code.scheme, **options)),
            checked("inject", lambda: make_delays(config.inject.model, workers, **config.inject.params())),
        )
        session.scheme(lambda plan, report, deadline: None)  # the settings of stop rule and code are checked here too
        return session

    def hello(self, name: str, worker: int | None = None) -> Hello:
        """What this process says of itself: as the worker of that slot, or as the master."""
        return Hello(
            name=name,
            protocol=PROTOCOL,
            version=_version(),
            fingerprint=self.state.fingerprint,
            samples=len(self.task.dataset),
            config=shared_settings(self.config),
            holds=tuple(range(len(self.sizes_K))) if worker is None else self.held_by(worker),
        )

    def held_by(self, worker: int) -> tuple[int, ...] | None:
        """The partitions that this process can read as the worker of that slot; None: all of them."""
        if self.config.data.holds is not None:
            return self.config.data.holds[worker]
        return None if self.task.holds is None else tuple(self.task.holds)

    def _holds(self) -> Holds:
        """As far as this process knows; what is wrong with it is refused where it joins."""
        k, slots = len(self.sizes_K), range(self.workers) if self.config.data.holds is not None else range(1)
        known = {slot: [j for j in self.held_by(slot) or () if j < k] for slot in slots}
        return {slot: held for slot, held in known.items() if held}

    @property
    def _grows(self) -> bool:
        """Whether a plan gives reliable workers more to compute, up to ``load_most`` times an even share."""
        return self.config.code.allocation == "chain" and self.code.name in ALLOCATED

    def scheme(self, on_plan: OnPlan) -> Scheme:
        """The configured scheme with its stop rule."""
        straggler = self.config.straggler
        deadline = straggler.deadline
        if deadline == "auto" and (self.code.name in WAITING or not self.code.unbiased):
            deadline = "wait"  # there is no F to tune by
        rule = checked(
            "straggler",
            lambda: make_stop_rule(
                workers=self.workers,
                deadline=deadline,
                max_wait=straggler.max_wait,
                warmup_steps=straggler.warmup_steps,
                p=straggler.p,
                prior_p=straggler.prior_p,
                prior_weight=straggler.prior_weight,
                window=straggler.window,
                delays=self.delays,
                noise_most=straggler.noise_most,
                headroom=min(self.config.code.load_most, HEADROOM_MOST) if self._grows else 1.0,
                noise=partial(least_noise, share_most=self.config.code.load_most) if self._grows else None,
            ),
        )
        return self._scheme(self.code, rule, on_plan)

    def wait_for_all(self, on_plan: OnPlan) -> Scheme:
        """The baseline `sync` with the same partitions: waits for everybody."""
        rule = WaitForAll(Arrivals(self.workers), self.config.straggler.max_wait)
        return self._scheme(get_code("sync"), rule, on_plan)

    def _scheme(self, code: GradientCode, rule: ArrivalRule, on_plan: OnPlan) -> Scheme:
        maker = PlanMaker(
            code,
            self.quantizer,
            lambda: self.state.shape,
            self.gradients.sizes_K,
            self.config.quantizer.bits,
            np.array(self._bits_caps(), np.int64),
            rule,
            self.plan_ids,
            self.config.code.load_most if self._grows else np.inf,
            self.config.straggler.p != "measured",
        )
        checked("code", lambda: maker.try_all(self._holds()))
        return Scheme(code, rule, maker, self.config.straggler.replan_every, on_plan)

    def _bits_caps(self) -> list[int]:
        """Most packed bits of each worker: the setting, or the widest packing (wider formats: the bits themselves)."""
        wanted, bits = self.config.quantizer.bits_most, self.config.quantizer.bits
        if isinstance(wanted, tuple):
            return list(wanted)
        return [max(bits, 8 if wanted is None else wanted)] * self.workers

    @property
    def sizes_K(self) -> F64:
        """(K,) shares of the samples."""
        return self.gradients.sizes_K


def _cut_by(task: Task, config: Config) -> Task:
    """The task with the settings' partitions."""
    by = config.data.partition_by
    if by is not None and task.partitioner is not None:
        raise ConfigError(f"data.partition_by: found {by!r}; the task has a partitioner of its own: give one of them")
    if config.data.holds is not None and task.holds is not None:
        raise ConfigError("data.holds: the task has holds of its own: give one of them")
    most = max((len(list(held)) for held in (task.holds or (), *(config.data.holds or ()))), default=0)
    if most > MOST_HELD:
        raise ConfigError(
            f"holds: found {most} partitions of one worker; at most {MOST_HELD} can be named: use fewer, larger ones"
        )
    return task if by is None else replace(task, partitioner=partition_by(by))


def load_user_task(config: Config, base: Path) -> Task:
    """The task that the settings name; ConfigError."""
    options: dict[str, Any] = dict(config.task.options)
    try:
        return load_task(config.task.name, options, config.task.batch_size, base)
    except TaskError as error:
        raise ConfigError(f"task: {error}") from None
