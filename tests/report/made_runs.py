"""Folders of runs that never were, with known troubles, for the tests of the report."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gcdist.observe import RunFolder, WorkerRound


def made_run(path: Path, steps: int, workers: int, slow_link: int = 0, slow: int = 0, seed: int = 0) -> Path:
    """A finished run of steps of 0.5 s: a round takes 0.2 s at the worker and 0.05 s on the link.

    Worker ``slow_link`` needs 2 s on the link, ``slow`` 2 s at the worker; both come late.
    """
    draw = np.random.default_rng(seed)
    with RunFolder(path) as folder:
        folder.write_config(f"steps = {steps}\n[cluster]\nworkers = {workers}\n")
        for rank in range(1, workers + 1):
            folder.event("members", f"worker {rank} joined")
        for step in range(steps):
            rounds, arrived = [], []
            for rank in range(1, workers + 1):
                held, link = 0.2 + 0.02 * draw.random(), 0.05
                if rank == slow_link:
                    link = 2.0
                if rank == slow:
                    held = 2.0
                end = "counted" if held + link < 0.5 else "late"
                if end == "late" and step % 4:
                    continue  # still at its last round
                if end == "counted":
                    arrived.append(rank)
                rounds.append(
                    WorkerRound(rank, step, end, 0.5 * step, held + link, held, 0.9 * held, 0.0, 2, 10_000, 40_000)  # type: ignore[arg-type]
                )
            folder.step(
                step,
                rounds,
                seconds=0.5 * (step + 1),
                step_seconds=0.45,
                loss=float(np.exp(-step / steps) + 0.1 * draw.random()),
                arrived=arrived,
                away=[],
                live=workers,
                bytes_up=10_000 * len(arrived),
                bytes_down=40_000 * len(arrived),
                deadline=0.45,
                why="deadline",
                plan_id=0,
                noise_planned=0.05,
                noise_observed=0.06,
            )
        folder.write_summary({"scheme": "joint", "waiting_seconds": 2.05 * steps, "arrivals": []})
        folder.event("end", "the run is over", finished=True)
    return path
