"""Run by test_faults_real: trains until everybody who was struck is back, and says what the master saw.

python faults_script.py OUT corrupt|processes
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import gcdist
from gcdist.tasks import digits

CORRUPT = ("payload", "checksum", "size", "plan", "step", "row", "nan", "garbage", "flood")
EACH = 5  # steps between two corrupt messages
MOST_STEPS = 3000


def config(out: Path, faults: list[dict[str, Any]]) -> gcdist.Config:
    return gcdist.Config(
        out=out,
        name="run",
        faults=faults,
        code={"scheme": "osgc"},
        inject={"model": "shifted-exponential", "shift": 0.1, "mean": 0.01},
        straggler={"deadline": 1.0, "warmup_steps": 2},
        cluster={
            "min_workers": 2,
            "start_timeout": 1.0,
            "beat": 0.2,
            "silent_after": 1.5,
            "lost_after": 3.0,
            "retry_first": 0.1,
            "retry_most": 0.5,
            "transport": os.environ["TRANSPORT"],
        },
    )


def corrupt(out: Path) -> None:
    """Each way to be wrong once, the workers in turn."""
    faults = [
        {"kind": "corrupt", "what": what, "worker": i % 3 + 1, "step": 4 + EACH * i} for i, what in enumerate(CORRUPT)
    ]
    train(out, config(out, faults), lambda joined, arrived: sum(joined.values()) >= 3 + len(CORRUPT))


def processes(out: Path) -> None:
    """A kill, a stop and a cut that are losses, a slow link, and rank 4, which comes 5 s late; rank 2 is started again."""
    if os.environ["RANK"] == "4":
        time.sleep(5.0)
    faults: list[dict[str, Any]] = [
        {"kind": "kill", "worker": 2, "step": 3},
        {"kind": "stop", "worker": 1, "step": 8, "seconds": 5.0},
        {"kind": "slow", "every": 1.0, "seconds": 1.0, "rate": 50_000.0},
        {"kind": "cut"},
    ]

    def drill(cluster: gcdist.Cluster, number: int) -> None:
        if number == 13:
            cluster.inject({"kind": "cut", "worker": 3, "seconds": 5.0})

    def done(joined: dict[int, int], arrived: set[int]) -> bool:
        return all(joined.get(rank, 0) >= 2 for rank in (1, 2, 3)) and joined.get(4, 0) >= 1 and arrived == {1, 2, 3, 4}

    train(out, config(out, faults), done, drill)


def train(out: Path, settings: gcdist.Config, done: Any, drill: Any = lambda cluster, number: None) -> None:
    lines: list[tuple[str, str]] = []
    after = 0
    with gcdist.connect(
        digits.build(model="mlp"), settings, say=lambda kind, text: lines.append((kind, text))
    ) as cluster:
        steps, arrived = [], [set[int]()]
        for step in cluster.steps(MOST_STEPS):
            drill(cluster, step.number)
            info = step.backward()
            steps.append(info.step)
            arrived.append(set(info.arrived))
            joined: dict[int, int] = {}
            for kind, text in lines:
                if kind == "members" and text.endswith(" joined"):
                    rank = int(text.split()[1])
                    joined[rank] = joined.get(rank, 0) + 1
            after += done(joined, set().union(*arrived[-10:]))
            if after >= 10:
                break
    until = time.monotonic() + 15.0  # pieces of a transfer that was cut have their own timeout
    while (left := threads()) and time.monotonic() < until:
        time.sleep(0.05)
    (out / "result.json").write_text(json.dumps({"lines": lines, "steps": steps, "done": after >= 10, "threads": left}))


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("gcdist-")]


if __name__ == "__main__":
    {"corrupt": corrupt, "processes": processes}[sys.argv[2]](Path(sys.argv[1]))
