"""The simulator's gradients: one model computes for all workers."""

from __future__ import annotations

from dataclasses import replace

from gcdist.config import checked
from gcdist.exchange.setup import Setup
from gcdist.model.copying import copied
from gcdist.model.device import pick_device
from gcdist.model.gradients import PartitionGradients, PartitionResult
from gcdist.model.state import ModelState
from gcdist.model.vector_format import Shape
from gcdist.types import U8


class SharedGradients:
    """One copy of the model computes for all workers; results of the newest steps are kept for whoever needs them next."""

    def __init__(self, setup: Setup) -> None:
        # a copy: the master's model belongs to the optimizer, and a stale row may need older parameters
        config = setup.config
        device = checked("compute", lambda: pick_device(config.compute.device))
        task = replace(setup.task, model=checked("task", lambda: copied(setup.task.model)).to(device))
        self._state = ModelState(task.model, True, config.quantizer.downlink, device)
        self._gradients = PartitionGradients(task, self._state, len(setup.sizes_K), config.seed, config.data.sampling)
        self._seconds = config.simulate.compute_seconds
        self._loaded = -1
        self._cache: dict[tuple[int, int, int], PartitionResult] = {}

    def load(self, raw: U8, params: int, trained: tuple[int, ...] | None) -> Shape:
        """Take version ``params`` of the parameters, unless it is the one at hand."""
        if params != self._loaded:
            self._state.adopt(trained)
            self._state.load(raw)
            self._loaded = params
            self._cache = {k: v for k, v in self._cache.items() if k[0] >= params - 1}
        return self._state.shape

    def compute(
        self, raw: U8, params: int, trained: tuple[int, ...] | None, step: int, partition: int
    ) -> PartitionResult:
        """The gradient of ``partition`` at ``step`` with the parameters of version ``params``."""
        key = (params, step, partition)
        found = self._cache.get(key)
        if found is None:
            self.load(raw, params, trained)
            made = self._gradients.compute(step, partition)
            # virtual seconds too: a simulated run gives the same figures again
            found = replace(
                made,
                gradient=made.gradient.copy(),
                data_seconds=0.0,
                compute_seconds=self._seconds,
                cpu_seconds=self._seconds,
            )
            self._cache[key] = found
        return found


class SharedView:
    """One worker's view of the shared gradients."""

    def __init__(self, shared: SharedGradients) -> None:
        self._shared = shared
        self._round: tuple[U8, int, tuple[int, ...] | None] | None = None

    def load(self, raw: U8, params: int, trained: tuple[int, ...] | None) -> Shape:
        """See `rows.Gradients`."""
        self._round = raw, params, trained
        return self._shared.load(raw, params, trained)

    def compute(self, step: int, partition: int) -> PartitionResult:
        """See `rows.Gradients`."""
        assert self._round is not None
        return self._shared.compute(*self._round, step, partition)
