"""Run by test_partition_memory_real: least squares with a memory of each partition, until two workers are lost and back.

python partition_memory_script.py OUT partial-memory|auto
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch

import gcdist
from gcdist.tasks.convex import least_squares
from gcdist.types import Plan

STRUCK = (1, 2)  # workers
MOST_STEPS = 6000
BEFORE, AFTER = 20, 60  # steps with a memory before they are struck, and at least once they are back
LONG = 200  # steps after which both need not have a row, on a machine that is too busy for one of them
SMALL = 1e-8  # of the excess loss at the start, to be reached once both are back


def config(out: Path, scheme: str) -> gcdist.Config:
    # a partition that moves is new to its worker, which is noise: plans change with the members alone
    fixed = {"deadline": 0.05, "warmup_steps": 2, "replan_every": MOST_STEPS}
    return gcdist.Config(
        out=out,
        name="run",
        code={"scheme": scheme, "partitions": 12},
        straggler={"deadline": "auto"} if scheme == "auto" else fixed,
        quantizer={"name": "dither", "bits": 4, "downlink": "float32"},
        inject={"model": "shifted-exponential", "shift": 0.005, "mean": 0.02, "scale_with_load": True},
        cluster={
            "min_workers": 1,
            "beat": 0.2,
            "silent_after": 1.5,
            "lost_after": 3.0,
            "retry_first": 0.1,
            "retry_most": 0.5,
        },
    )


def remembering(plan: Plan | None, scheme: str) -> set[int]:
    """The workers whose rows are sent as differences to a memory; `auto` chooses them, and may give a slow one no row."""
    if plan is None:
        return set()
    chosen_R = np.ones(len(plan.worker_R)) if scheme != "auto" else plan.beta_R
    return set() if chosen_R is None else set((plan.worker_R[chosen_R > 0] + 1).tolist())


def main(out: Path, scheme: str) -> None:
    lines: list[tuple[str, str]] = []

    def say(kind: str, text: str) -> None:
        lines.append((kind, text))
        print(f"{kind}: {text}", flush=True)

    def back(worker: int) -> bool:
        """It was lost and has joined again."""
        about = [text for kind, text in lines if kind == "members" and text.startswith(f"worker {worker} ")]
        return any("lost" in text for text in about) and about[-1].endswith("joined")

    # the exact gradients of partitions that differ: a row that is cut has no noise once all are remembered
    task = least_squares(batch_size=1_000_000, samples=256, dim=8, condition=2.0, blocks=12)
    assert task.evaluate is not None
    excess = [task.evaluate(task.model)["excess_loss"]]
    both, steps, ready, after, cut, arrived = 0, 0, False, 0, 0, dict.fromkeys(STRUCK, 0)
    with gcdist.connect(task, config(out, scheme), say=say) as cluster:
        optimizer = torch.optim.SGD(task.model.parameters(), lr=0.1)
        for step in cluster.steps(MOST_STEPS):
            info = step.backward()
            optimizer.step()
            excess.append(task.evaluate(task.model)["excess_loss"])
            who = remembering(cluster.plan, scheme)
            if not who:
                continue
            both, steps = both + (set(STRUCK) <= who), steps + 1
            if not ready and (both >= BEFORE or steps >= LONG):
                ready = True
                print("both remember", flush=True)
            if all(back(worker) for worker in STRUCK):
                after += 1
                cut += sum(share < 1 for share in info.done)
                for worker in STRUCK:
                    arrived[worker] += worker in info.arrived
            enough = min(arrived.values()) >= AFTER / 6 or after >= LONG
            if after >= AFTER and enough and excess[-1] < SMALL * excess[0]:
                break
    found = {"excess": excess, "after": after, "cut": cut, "arrived": list(arrived.values()), "lines": lines}
    (out / "result.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
