"""Seconds and bytes of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from gcdist.master.port import MasterPort


class Ledger:
    """Seconds and bytes of a run so far. Pauses are kept apart, by name: the run's seconds stand still in them."""

    def __init__(self, port: MasterPort) -> None:
        self.paused: dict[str, float] = {}
        self.step_seconds = 0.0  # in rounds
        self.bytes_up = 0  # in the steps, without the check of waiting
        self.bytes_down = 0
        self.saved_bytes = 0  # float32 payloads minus the packed ones
        self.saved_down = 0  # the same of the parameters on their way down
        self._port = port
        self._began: float | None = None  # on the port's clock
        self._resting = False
        self._counted = (0, 0)  # the port's bytes when the last step had ended
        self._resumed: Mapping[str, Any] | None = None

    @property
    def running(self) -> bool:
        """Whether the run has begun."""
        return self._began is not None

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return 0.0 if self._began is None else self._port.now() - self._began

    def begin(self, same_clock: bool = False) -> None:
        """The run begins now, or goes on; ``same_clock``: the port's clock goes on from the checkpoint's time, too."""
        told, port = self._resumed, self._port
        up, down = told["pending"] if told else (0, 0)
        self._counted = port.bytes_up - up, port.bytes_down - down
        self._began = port.now() - (told["seconds"] if told else 0.0)
        if told and same_clock:
            self._began = told["began"]  # to the last bit

    @contextmanager
    def pause(self, name: str) -> Iterator[None]:
        """Time in here is kept under ``name``; a pause within another one is a part of that."""
        if self._resting:
            yield
            return
        self._resting, start = True, self._port.now()
        try:
            yield
        finally:
            spent = self._port.now() - start
            self._resting = False
            self.paused[name] = self.paused.get(name, 0.0) + spent
            if self._began is not None:
                self._began += spent

    def traffic(self) -> tuple[int, int]:
        """Bytes up and down since the last call."""
        before, self._counted = self._counted, (self._port.bytes_up, self._port.bytes_down)
        up, down = self._counted[0] - before[0], self._counted[1] - before[1]
        self.bytes_up += up
        self.bytes_down += down
        return up, down

    def state_dict(self) -> dict[str, Any]:
        """The accounts so far, for a checkpoint."""
        pending = self._port.bytes_up - self._counted[0], self._port.bytes_down - self._counted[1]
        return {
            **{name: getattr(self, name) for name in self._SUMS},
            "paused": dict(self.paused),
            "seconds": self.seconds,
            "began": self._began,
            "pending": pending if self.running else (0, 0),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` gave, before `begin`."""
        for name in self._SUMS:
            setattr(self, name, state[name])
        self.paused = dict(state["paused"])
        self._resumed = state

    _SUMS = ("step_seconds", "bytes_up", "bytes_down", "saved_bytes", "saved_down")
