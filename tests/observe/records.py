"""Steps of a run that never was, for the tests of readers."""

from __future__ import annotations

from gcdist.observe import StepRecord, WorkerRound


def a_round(
    worker: int, step: int, seconds: float = 0.3, held: float | None = 0.2, end: str = "counted"
) -> WorkerRound:
    return WorkerRound(worker, step, end, 0.5 * step, seconds, held, 0.1, 0.01, 2, 500, 1500)  # type: ignore[arg-type]


def record(step: int, workers: int = 8, missing: tuple[int, ...] = (8,), away: tuple[int, ...] = ()) -> StepRecord:
    arrived = tuple(rank for rank in range(1, workers + 1) if rank not in (*missing, *away))
    rounds = tuple(a_round(rank, step) for rank in arrived)
    loss = None if step == 0 else 0.25
    return StepRecord(
        step, 0.5 * step, 0.45, loss, arrived, away, workers, 1000, 2000, 0.4, "deadline", 0.1, 0.2, rounds=rounds
    )
