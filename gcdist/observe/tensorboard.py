"""Scalars and histograms for TensorBoard; needs ``gcdist[report]``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from gcdist.observe.stream import Observer, StepRecord
from gcdist.observe.times import WorkerRound

HISTOGRAM_EVERY = 20  # steps whose rounds make a histogram of each worker's seconds


class TensorBoard(Observer):
    """Writes event files into ``folder``.

    Scalars: loss, seconds a step, deadline, share of the live workers that counted, bytes both ways, noise, metrics of the
    evaluations. Histograms, one a worker and a kind of time: seconds of a round at the worker and on the link.

    Raises:
        ImportError: the package ``tensorboard`` is not installed; the line says how it is.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            text = f"TensorBoard needs the extra gcdist[report]: pip install 'gcdist[report]' ({error})"
            raise ImportError(text) from None
        self._writer = SummaryWriter(str(folder))
        self._rounds: dict[int, list[WorkerRound]] = {}

    def step(self, record: StepRecord) -> None:
        """Scalars of the step; every `HISTOGRAM_EVERY` steps the histograms."""
        scalars = {
            "loss": record.loss,
            "step/seconds": record.step_seconds,
            "step/deadline": record.deadline,
            "step/counted": len(record.arrived) / record.live if record.live else None,
            "bytes/up": float(record.bytes_up),
            "bytes/down": float(record.bytes_down),
            "noise/planned": record.noise_planned,
            "noise/observed": record.noise_observed,
        }
        scalars |= {f"metrics/{name}": value for name, value in record.metrics.items()}
        for name, value in scalars.items():
            self._scalar(name, value, record.step)
        for each in record.rounds:
            self._rounds.setdefault(each.worker, []).append(each)
        if (record.step + 1) % HISTOGRAM_EVERY == 0:
            self._histograms(record.step)

    def evaluation(self, step: int, seconds: float, metrics: Mapping[str, float]) -> None:
        """A scalar a metric."""
        for name, value in metrics.items():
            self._scalar(f"evaluation/{name}", value, step)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()

    def _scalar(self, name: str, value: float | None, step: int) -> None:
        if value is not None and math.isfinite(value):
            self._writer.add_scalar(name, value, step)

    def _histograms(self, step: int) -> None:
        for worker, rounds in sorted(self._rounds.items()):
            held = np.array([each.held for each in rounds if each.held is not None])
            link = np.array([each.link for each in rounds if each.link is not None])
            for name, values in (("at the worker", held), ("on the link", link)):
                if len(values):
                    self._writer.add_histogram(f"worker {worker}/{name}", values, step)
        self._rounds.clear()
