"""The way down: what the rounds of a step carry to whom."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from gcdist.exchange.replica import (
    DIGEST_EVERY,
    Difference,
    DifferenceCoder,
    Replica,
    most_differences,
    pack_round,
)
from gcdist.exchange.setup import Setup
from gcdist.model.state import ModelState
from gcdist.model.vector_format import Shape
from gcdist.types import F32, U8, Layout, NonFiniteError


class Outgoing(Protocol):
    """One step's parameters on their way to the workers, valid until the next step's are made."""

    @property
    def since(self) -> int | None:
        """A worker that has this version or a later one gets differences; None: everybody gets all parameters."""
        ...

    @property
    def float32_nbytes(self) -> int:
        """Bytes of all parameters and buffers with float32 parameters."""
        ...

    def body(self, base: int | None) -> U8:
        """For a worker that has version ``base``, or (None) all of it; immutable."""
        ...

    def finish(self) -> None:
        """Do now what could wait until the rounds were out: the workers compute meanwhile. Idempotent."""
        ...


class Downlink(Protocol):
    """Makes each step's parameters from the master's model."""

    def next(self, version: int) -> Outgoing:
        """The parameters as they are now; versions rise."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` gave."""
        ...


def make_downlink(setup: Setup) -> Downlink:
    """The one that the settings name."""
    return Whole(setup.state) if setup.coder is None else Differences(setup.state, setup.coder)


def _float32_nbytes(shape: Shape) -> int:
    return 4 * (shape.layout.d + shape.floats) + shape.int_nbytes


class Whole:
    """All parameters in every round, as float32 or bfloat16."""

    def __init__(self, state: ModelState) -> None:
        self._state = state

    def next(self, version: int) -> Outgoing:
        """See `Downlink.next`."""
        return WholeBody(self._state.snapshot(), _float32_nbytes(self._state.shape))

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to take."""


@dataclass(frozen=True, slots=True, eq=False)
class WholeBody:
    """One snapshot for everybody."""

    raw: U8
    float32_nbytes: int
    since: int | None = None

    def body(self, base: int | None) -> U8:
        """See `Outgoing.body`."""
        return self.raw

    def finish(self) -> None:
        """Nothing."""


class Differences:
    """Differences to what the workers have (math section 11), encoded once a step.

    Memory: 2 d float32 (the replica and the difference in the making), and the last encoded differences as far as they
    are smaller together than all parameters: at most d float32 more. Bodies live as long as a link needs them.
    """

    def __init__(self, state: ModelState, coder: DifferenceCoder) -> None:
        self._state = state
        self._replica = Replica(coder)
        self._kept: deque[tuple[int, Difference]] = deque()  # (version that it is to, difference)
        self._gap = np.zeros(0, np.float32)
        self._trained: tuple[int, ...] | None = None  # parameters in the replica
        self._open: DifferenceBodies | None = None  # of the newest version; the replica may be one behind it

    @property
    def replica(self) -> Replica:
        """What a worker with the newest version has."""
        if self._open is not None:
            self._open.finish()
        return self._replica

    def next(self, version: int) -> Outgoing:
        """See `Downlink.next`.

        Everybody gets all parameters in the first step, when the vector has grown, and as long as a parameter is not
        finite (the workers then name it, as they do with float32).
        """
        state, replica, made = self._state, self.replica, None
        d = state.layout.d
        if len(self._gap) != d:
            self._gap = np.empty(d, np.float32)
        before = replica.version
        if before is None or len(replica.vector) != d or self._trained != state.shape.trained:
            self._begin(state.read_vector(self._gap), version)
        else:
            try:
                made = replica.coder.encode(state.read_gap(replica.vector, self._gap), version, state.layout)
            except NonFiniteError:
                self._begin(state.read_vector(self._gap), version)
            else:
                self._kept.append((before, made))
                while len(self._kept) > most_differences(replica.coder, state.layout):
                    self._kept.popleft()
        floats, ints = state.read_buffers()
        since = self._kept[0][0] if self._kept else version
        most = _float32_nbytes(state.shape)
        kept = tuple(self._kept)
        self._open = DifferenceBodies(version, replica, made, kept, floats, ints, since, most, state.layout)
        return self._open

    def _begin(self, x: F32, version: int) -> None:
        replica = self._replica
        replica.vector, replica.version = x.copy(), version
        self._trained = self._state.shape.trained
        self._kept.clear()

    def state_dict(self) -> dict[str, Any]:
        """The replica; a run that goes on sends it whole, so that earlier differences are not needed."""
        replica = self.replica
        return {"version": replica.version, "vector": replica.vector.copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take a replica whose parameters are those in the model's vector now; nothing from a run without one."""
        vector, replica = state.get("vector"), self._replica
        self._open = None
        replica.version = None
        if vector is not None and len(vector) == self._state.layout.d:
            replica.vector, replica.version = np.array(vector, np.float32), state["version"]
            self._trained = self._state.shape.trained


@dataclass(frozen=True, slots=True, eq=False)
class DifferenceBodies:
    """One body for each version that a worker may have, made when it is asked for.

    The master's own replica takes the newest difference when a body needs it, or in `finish`.
    """

    version: int
    replica: Replica
    newest: Difference | None  # None: the replica was begun anew
    kept: tuple[tuple[int, Difference], ...]
    floats: F32
    ints: U8
    since: int | None
    float32_nbytes: int
    layout: Layout
    made: dict[int | None, U8] = field(default_factory=dict)

    def body(self, base: int | None) -> U8:
        """See `Outgoing.body`."""
        if base not in self.made:
            version = self.version
            wanted = [] if base is None else [each for before, each in self.kept if before >= base]
            checked = base is not None and version // DIGEST_EVERY > base // DIGEST_EVERY
            if not wanted or checked:
                self.finish()
            self.made[base] = pack_round(self.replica, wanted, self.floats, self.ints, checked)
        return self.made[base]

    def finish(self) -> None:
        """See `Outgoing.finish`."""
        if self.newest is not None and self.replica.version != self.version:
            self.replica.add([self.newest], self.layout)
