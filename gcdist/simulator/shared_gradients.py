"""The simulator's gradients: one model computes for all workers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias
from weakref import WeakValueDictionary

from gcdist.config import checked
from gcdist.exchange.replica import Body, Replica
from gcdist.exchange.setup import Setup
from gcdist.model.copying import copied
from gcdist.model.device import pick_device
from gcdist.model.gradients import PartitionGradients, PartitionResult
from gcdist.model.many_gradients import BlockGradients
from gcdist.model.state import ModelState
from gcdist.model.vector_format import Shape
from gcdist.protocol import Round
from gcdist.protocol.messages import Assignment
from gcdist.simulator.shared_rows import SharedRows
from gcdist.types import U8
from gcdist.worker.partition_memory import memory_of
from gcdist.worker.ready_row import ReadyRow


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Version:
    """One version of the parameters as workers hold it; the replica stays as it is."""

    replica: Replica
    body: Body


Values: TypeAlias = Version | U8


class SharedGradients:
    """One copy of the model computes for all workers; results of the newest steps are kept for whoever needs them next."""

    def __init__(self, setup: Setup) -> None:
        # a copy: the master's model belongs to the optimizer, and a stale row may need older parameters
        config = setup.config
        device = checked("compute", lambda: pick_device(config.compute.device))
        task = replace(setup.task, model=checked("task", lambda: copied(setup.task.model)).to(device))
        self._state = ModelState(task.model, True, config.quantizer.downlink, device)
        k, no_clock = len(setup.sizes_K), float  # seconds are those of the settings
        self._gradients = PartitionGradients(task, self._state, k, config.seed, config.data.sampling, no_clock)
        self._seconds = config.simulate.compute_seconds
        alone = config.simulate.pack_messages
        self._blocks = None if alone else BlockGradients.of(self._gradients, self._seconds)
        self._rows: SharedRows | None = None
        if self._blocks is not None and memory_of(config) is None:
            self._rows = SharedRows(self._blocks, setup.quantizer, config.seed, self._seconds)
        self._coder = setup.coder
        self._versions: WeakValueDictionary[int, Version] = WeakValueDictionary()  # that some worker holds
        self._shapes: dict[tuple[int, ...] | None, Shape] = {}  # by the parameters in the vector
        self._loaded = -1
        self._cache: dict[tuple[int, int, int], PartitionResult] = {}

    @property
    def differences(self) -> bool:
        """Whether rounds carry differences, which all must take."""
        return self._coder is not None

    def shape(self, sent: Round) -> Shape:
        """What the vector of a round's plan holds."""
        assert sent.assignment is not None
        trained = sent.assignment.trained
        if trained not in self._shapes:
            self._state.adopt(trained)
            self._shapes[trained] = self._state.shape
            self._loaded = -1
        return self._shapes[trained]

    def _load(self, sent: Round, values: Values) -> None:
        """Take a version of the parameters, unless it is the one at hand."""
        if sent.params != self._loaded:
            assert sent.assignment is not None
            self._state.adopt(sent.assignment.trained)
            if isinstance(values, Version):
                self._state.load_values(values.replica.vector, values.body.floats, values.body.ints)
            else:
                self._state.load(values)
            self._loaded = sent.params
            self._cache = {k: v for k, v in self._cache.items() if k[0] >= sent.params - 1}
            if self._blocks is not None:
                self._blocks.forget(sent.params - 1)

    def version(self, held: Version | None, sent: Round, raw: U8) -> Version:
        """What a worker that holds ``held`` holds after a round: decoded once for all that come to this version.

        Raises:
            ReplicaError: the round does not fit.
        """
        found = self._versions.get(sent.params)
        if found is None:
            assert self._coder is not None
            replica = Replica(self._coder) if held is None or sent.base is None else held.replica.copy()
            body = replica.take(raw, sent.params, sent.base, self.shape(sent).layout)
            found = self._versions[sent.params] = Version(replica, body)
        return found

    def expect(self, sent: Round, work: Assignment, ready: float, done: list[float]) -> None:
        """See `SharedRows.expect`."""
        if self._rows is not None:
            self._rows.expect(sent, work, ready, done)

    def ready_row(
        self, sent: Round, values: Values, row: int, done: list[float], until: float | None
    ) -> ReadyRow | None:
        """See `SharedRows.take`."""
        if self._rows is None:
            return None
        self._load(sent, values)
        return self._rows.take(sent, row, done, until)

    def compute(self, sent: Round, values: Values, step: int, partition: int) -> PartitionResult:
        """The gradient of ``partition`` at ``step`` with the parameters of a round."""
        key = (sent.params, step, partition)
        found = self._cache.get(key)
        if found is None:
            self._load(sent, values)
            if self._blocks is not None:
                found = self._blocks.compute(sent.params, step, partition)
            else:
                made = self._gradients.compute(step, partition)
                # virtual seconds too: a simulated run gives the same figures again
                found = replace(made, data_seconds=0.0, compute_seconds=self._seconds, cpu_seconds=self._seconds)
            self._cache[key] = found
        return found


class SharedView:
    """One worker's view of the shared gradients."""

    def __init__(self, shared: SharedGradients) -> None:
        self._shared = shared
        self._round: tuple[Round, Values] | None = None
        self.version: Version | None = None  # what this worker holds, where differences travel

    def load(self, sent: Round, raw: U8) -> None:
        """See `rows.Gradients`; the model takes it when a partition is needed."""
        self.take(sent, raw)
        self._round = sent, raw if self.version is None else self.version

    def take(self, sent: Round, raw: U8) -> None:
        """See `rows.Gradients`."""
        if self._shared.differences:
            held, self.version = self.version, None
            self.version = self._shared.version(held, sent, raw)

    def ready_row(self, row: int, done: list[float], until: float | None) -> ReadyRow | None:
        """A row of the newest round that was made with those of others; see `SharedRows.take`."""
        assert self._round is not None
        return self._shared.ready_row(*self._round, row, done, until)

    def compute(self, step: int, partition: int) -> PartitionResult:
        """See `rows.Gradients`."""
        assert self._round is not None
        return self._shared.compute(*self._round, step, partition)
