"""What observing costs: processor time of the run's folder, its files and the observers' queue, against a whole step's.

One simulated run of 8 workers and a million parameters; both are measured in it, on the training thread. An observer
listens, whose own work is another thread's. `--json` prints the figures.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import gcdist
from gcdist.observe import Observer

WORKERS = 8
MOST = 0.02  # of a step


class Wide(nn.Module):
    """One linear layer of about ``d`` parameters."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.layer = nn.Linear(d // 10, 10)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layer(x)
        return found


def loss(model: nn.Module, batch: Any) -> Tensor:
    x, y = batch
    return nn.functional.cross_entropy(model(x), y)


def timed(owner: Any, name: str, spent: list[float]) -> None:
    """Add the processor time of ``owner.name`` to ``spent``, nested calls once."""
    inner: Callable[..., Any] = getattr(owner, name)

    def outer(*args: Any, **values: Any) -> Any:
        began = time.thread_time()
        try:
            return inner(*args, **values)
        finally:
            spent.append(time.thread_time() - began)

    setattr(owner, name, outer)


def measure(steps: int, d: int) -> dict[str, float]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = [(torch.randn(d // 10), i % 10) for i in range(4 * WORKERS)]
    task = gcdist.Task(Wide(d), data, loss, batch_size=1)
    config = gcdist.Config(
        steps=steps, cluster={"workers": WORKERS}, checkpoint={"keep": 0}, simulate={"compute_seconds": 0.01}
    )
    spent: list[float] = []
    with tempfile.TemporaryDirectory() as place:
        with gcdist.simulate(task, config, folder=Path(place) / "run", say=lambda kind, text: None) as cluster:
            cluster.observe(Observer())
            for owner, names in (
                (cluster.folder, ("step", "event")),
                (cluster.folder.trace, ("step",)),
                (cluster.driver.times, ("sent", "arrived", "freed", "lost", "take")),
            ):
                for name in names:
                    timed(owner, name, spent)
            whole = []
            for step in cluster.steps(steps):
                began = time.thread_time()
                step.backward()
                whole.append(time.thread_time() - began)
        size = sum(path.stat().st_size for path in (Path(place) / "run").glob("*.json*"))
    return {
        "workers": WORKERS,
        "parameters": d,
        "steps": steps,
        "step_ms": 1e3 * sum(whole) / steps,
        "observing_ms": 1e3 * sum(spent) / steps,
        "ratio": sum(spent) / sum(whole),
        "bytes_a_step": size / steps,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--parameters", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = measure(given.steps, given.parameters)
    if given.json:
        print(json.dumps(found))
        return
    print(
        f"{found['observing_ms']:.2f} ms of {found['step_ms']:.1f} ms of processor time a step are observing: "
        f"{found['ratio']:.2%} (at most {MOST:.0%} is the aim), {found['bytes_a_step'] / 1e3:.1f} kB written a step"
    )


if __name__ == "__main__":
    main()
