"""One step as the training script sees it, and its figures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import fmean
from typing import Protocol

import numpy as np

from gcdist.exchange.sidecar import Sidecar
from gcdist.master.arrival_tally import shares_done
from gcdist.master.noise_estimates import noise_observed, noise_planned
from gcdist.master.round_result import RoundResult
from gcdist.model.state import ModelState
from gcdist.types import F64, METRICS_MOST, RunHaltedError


class Rounds(Protocol):
    """What a step needs of its run: `Cluster`."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one epoch."""
        ...

    def round(self, number: int) -> StepInfo:
        """Run the round of step ``number``."""
        ...


@dataclass(frozen=True, slots=True)
class StepInfo:
    """What one coded backward pass did.

    Ranks are 1..n (the master is rank 0). ``loss`` is the mean over the partitions that arrived, by samples; None if none
    did. Noise is error over |g|^2: as planned from the promises for partitions that agree, with what cuts add by how much
    partitions were measured to differ, and as estimated from what arrived (None where it cannot be told).
    """

    step: int
    seconds: float  # since the run began
    step_seconds: float  # from the opening to the close of the round
    loss: float | None
    arrived: tuple[int, ...]
    away: tuple[int, ...]  # not there when the step was opened
    live: int
    bytes_up: int
    bytes_down: int
    bytes_down_float32: int  # the same with float32 parameters
    deadline: float
    why: str  # complete, deadline, count
    plan_id: int
    noise_planned: float
    noise_observed: float | None
    estimated: bool  # False: nothing is known of the gradient, every .grad is None
    data_seconds: float | None  # mean over the arrived workers: waiting for batches; None if none arrived
    compute_seconds: float | None  # the same: forward and backward
    cpu_seconds: float | None  # processor time of one partition, mean over those that arrived
    loss_share: float  # of the samples, those in partitions that ``loss`` is of
    choice_seconds: float = 0.0  # of the master, on an automatic choice before the step or during it
    done: tuple[
        float, ...
    ] = ()  # share of its partitions that each arrived worker had done, in the order of ``arrived``
    metrics: dict[str, float] = field(default_factory=dict)  # that the loss function gave, as means like the loss


def step_info(
    result: RoundResult,
    seconds: float,
    traffic: tuple[int, int],
    omega_by_bits: F64,
    size_K: F64,
    spread: float = 0.0,
    left: tuple[float, float] = (1.0, 1.0),
    rows_spread: float | None = None,
) -> StepInfo:
    """The figures of a finished round.

    Args:
        result: the round.
        seconds: since the run began.
        traffic: bytes up and down since the last step's end.
        omega_by_bits: (33,) the noise law as calibrated.
        size_K: (K,) shares of the samples.
        spread: ``S^2/|g|^2`` of one partition, as measured.
        left: what a memory of partitions leaves of both noises, see `noise_planned`.
        rows_spread: the spread by what rows differ by; None: the same.
    """
    lines = (line for counted in result.counted for line in counted.sidecar.parts_P4.tolist())
    parts = {int(j): (loss, share) for j, loss, share, _ in lines if j < len(size_K)}
    weight = sum(share for _, share in parts.values())
    sidecars = [counted.sidecar for counted in result.counted]
    partitions = sum(len(s.parts_P4) for s in sidecars)
    return StepInfo(
        step=result.step,
        seconds=seconds,
        step_seconds=result.seconds,
        loss=sum(loss * share for loss, share in parts.values()) / weight if weight else None,
        arrived=tuple(sorted({int(result.plan.worker_R[c.row]) + 1 for c in result.counted})),
        away=tuple((np.flatnonzero(~result.live_N) + 1).tolist()),
        live=int(result.live_N.sum()),
        bytes_up=traffic[0],
        bytes_down=traffic[1],
        bytes_down_float32=traffic[1] + result.down_saved,
        deadline=result.terms.deadline,
        why=result.why,
        plan_id=result.plan.plan_id,
        noise_planned=noise_planned(result.plan, result.terms, omega_by_bits, size_K, spread, left, rows_spread),
        noise_observed=noise_observed(result, omega_by_bits),
        estimated=result.gradient is not None,
        data_seconds=fmean(s.data_seconds for s in sidecars) if sidecars else None,
        compute_seconds=fmean(s.compute_seconds for s in sidecars) if sidecars else None,
        cpu_seconds=sum(s.cpu_seconds for s in sidecars) / partitions if partitions else None,
        loss_share=float(sum(size_K[j] for j, (_, share) in parts.items() if share > 0) / size_K.sum()),
        choice_seconds=result.choice_seconds,
        done=tuple(share for _, share in sorted(shares_done(result).items())),
        metrics=_metrics(sidecars, size_K),
    )


def _metrics(sidecars: Iterable[Sidecar], size_K: F64) -> dict[str, float]:
    """Means, by samples, over the partitions that reported the metric; a partition computed twice counts once."""
    found: dict[str, dict[int, float]] = {}
    for sidecar in sidecars:
        for j, metrics in zip(sidecar.parts_P4[:, 0].astype(int).tolist(), sidecar.metrics_P, strict=False):
            for name, value in metrics.items() if j < len(size_K) else ():
                found.setdefault(name, {})[j] = value
    means = {}
    for name in sorted(found)[:METRICS_MOST]:
        total = sum(size_K[j] for j in found[name])
        means[name] = float(sum(size_K[j] / total * value for j, value in found[name].items()))
    return means


def take_into_model(result: RoundResult, state: ModelState, remembers: bool) -> None:
    """Fill ``.grad`` with the decoded gradient, and merge the buffers of who arrived.

    A parameter that no arrived partition used gets None, unless the code ``remembers`` older messages, which know of it.
    """
    used = np.zeros(len(state.parameters), bool)
    for counted in result.counted:
        used |= counted.sidecar.used
    if result.gradient is None:
        state.set_grad(np.zeros(state.layout.d, np.float32), np.zeros(len(state.parameters), bool))
    else:
        state.set_grad(result.gradient, None if remembers else used)
    state.merge_buffers([counted.sidecar.buffers for counted in result.counted])


class Step:
    """One step of training."""

    def __init__(self, cluster: Rounds, number: int) -> None:
        self.number = number
        self._cluster = cluster

    @property
    def epoch(self) -> int:
        """Number of whole epochs before this step."""
        return self.number // self._cluster.steps_per_epoch

    def backward(self) -> StepInfo:
        """One coded round with the model's parameters as they are: fills ``.grad`` of every trainable parameter.

        A parameter that no arrived partition's loss depends on gets None, as after PyTorch's own backward; so do all of
        them when nobody arrived (optimizers then leave them alone).

        Raises:
            RunHaltedError: the run cannot go on (too few workers, a user's error that keeps coming back).
            RunStoppedError: the run was asked to end.
        """
        try:
            return self._cluster.round(self.number)
        except RunHaltedError as error:
            # its text says everything, the frames between here and there nothing
            raise error.with_traceback(None) from None
