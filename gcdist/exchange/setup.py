"""The parts of a run that master and workers build in the same way, from a task and its settings."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import version

import numpy as np

from gcdist.config import Config, ConfigError, checked, shared_settings
from gcdist.exchange.replica import DifferenceCoder
from gcdist.model.device import CPU, pick_device
from gcdist.model.gradients import PartitionGradients
from gcdist.model.state import ModelState
from gcdist.protocol import PROTOCOL, Hello
from gcdist.protocol.messages import SampleSketch
from gcdist.quantize import get_quantizer, noise_table
from gcdist.straggler import make_delays
from gcdist.tasks import Task, partition_by
from gcdist.types import F64, DelayModel, Quantizer

MOST_HELD = 2000  # partitions that a Hello has room to name


@cache
def _version() -> str:
    """Read once: ten thousand simulated workers say it."""
    return version("gcdist")


@dataclass(frozen=True, slots=True, eq=False)
class Setup:
    """The parts that both ends build. ``config`` is resolved for ``workers``."""

    task: Task
    config: Config
    workers: int
    state: ModelState
    gradients: PartitionGradients
    quantizer: Quantizer
    delays: DelayModel
    looked: list[SampleSketch] = field(default_factory=list, kw_only=True)  # filled where there are several processes
    all_must_fit: bool = field(default=False, kw_only=True)  # at the start: nobody has said that fewer workers will do
    run: int = field(default=1, kw_only=True)  # which of its process's runs this is

    @staticmethod
    def of(task: Task, config: Config, workers: int, own: bool) -> Setup:
        """Check the settings against the task and make the parts.

        Args:
            task: the user's.
            config: the settings.
            workers: their number n.
            own: this process only computes: its model moves to the settings' device, and on the CPU the parameters become
                views of one flat vector.

        Raises:
            ConfigError: what does not fit, in one line.
        """
        all_must_fit = config.cluster.min_workers is None
        config = config.resolved(workers, len(task.dataset))
        k = config.code.partitions
        assert k is not None
        task = _cut_by(task, config)
        device = checked("compute", lambda: pick_device(config.compute.device)) if own else CPU
        if own:
            task.model.to(device)
        state = checked("task", lambda: ModelState(task.model, own, config.quantizer.downlink, device))
        quantizer = checked("quantizer", lambda: get_quantizer(config.quantizer.name, **config.quantizer.options))
        law, chosen = noise_table(quantizer, state.layout.d), config.quantizer
        wanted = {"bits": chosen.bits, "downlink_bits": chosen.downlink_bits}
        if chosen.downlink != "differences":
            del wanted["downlink_bits"]
        for key, bits in wanted.items():
            if not np.isfinite(law[bits]):
                raise ConfigError(f"quantizer.{key}: {quantizer.name!r} does not take {bits} bits")
        gradients = checked("task", lambda: PartitionGradients(task, state, k, config.seed, config.data.sampling))
        return Setup(
            task,
            config.with_steps(gradients.batches.steps_per_epoch),
            workers,
            state,
            gradients,
            quantizer,
            checked("inject", lambda: make_delays(config.inject.model, workers, **config.inject.params())),
            all_must_fit=all_must_fit,
        )

    @property
    def coder(self) -> DifferenceCoder | None:
        """The coder of the differences on the way down; None: parameters travel whole."""
        chosen = self.config.quantizer
        if chosen.downlink != "differences":
            return None
        return DifferenceCoder(self.quantizer, chosen.downlink_bits, self.config.seed)

    def hello(self, name: str, worker: int | None = None) -> Hello:
        """This process's introduction, as the worker of that index or as the master, with ``looked``."""
        return Hello(
            name=name,
            protocol=PROTOCOL,
            version=_version(),
            fingerprint=self.state.fingerprint,
            samples=len(self.task.dataset),
            config=shared_settings(self.config),
            holds=tuple(range(len(self.sizes_K))) if worker is None else self.held_by(worker),
            looked=tuple(self.looked),
            cut=self.gradients.batches.cut,
            run=self.run,
        )

    def held_by(self, worker: int) -> tuple[int, ...] | None:
        """The partitions that this process can read as the worker of that index; None: all of them."""
        if self.config.data.holds is not None:
            return self.config.data.holds[worker]
        return None if self.task.holds is None else tuple(self.task.holds)

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
