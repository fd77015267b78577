"""The bias of cut rows whose partitions differ in cost, 1:4, measured with the orders that workers take.

A row of 8 partitions, 4 cheap and 4 that take four times as long. The *weight* of a partition is the mean of ``l/m`` if it
is done and 0 if not, given that at least one is done; 1 is unbiased. Theory (docs/partial.md): the weight is the chance that
the partition is done when it comes first, over the mean of these chances. So there is a bias only if the cut may come before
a dear partition alone could be done. The cut is given as a share of the mean time of the whole row; the worker's
speed is constant, or a whole row takes 0.2 + Exp(0.8) of its mean time, drawn anew in each step.

The bias of the row is ``|sum (weight_j - 1) g_j| / |sum g_j|``, with the gradients of digits at the start (whole partitions,
sorted by label), for costs that have nothing to do with the content (mean of 200 shuffles) and for costs that follow it.

python benchmarks/partial_bias.py
"""

from __future__ import annotations

import argparse
import json

import numpy as np

from gcdist.model.gradients import PartitionGradients
from gcdist.model.state import ModelState
from gcdist.protocol.order import partition_order
from gcdist.tasks import digits
from gcdist.types import F64

PARTS, RATIO = 8, 4.0


def weights_by_theory(costs: F64, cuts: F64) -> F64:
    """Of each partition (l,), for equally likely ``cuts`` (c,) in the unit of ``costs`` (l,)."""
    chances = np.array([(cost <= cuts).mean() for cost in costs])
    found: F64 = chances / chances.mean()
    return found


def measured_weights(costs: F64, cuts: F64) -> F64:
    """The same by the orders that a worker takes, one step for each cut."""
    parts = tuple((j, 1.0) for j in range(len(costs)))
    weights, some = np.zeros(len(costs)), 0
    for step, cut in enumerate(cuts.tolist()):
        order = [j for j, _ in partition_order(0, step, 0, parts)]
        done = int(np.searchsorted(np.cumsum(costs[order]), cut, side="right"))
        if done:
            weights[order[:done]] += len(costs) / done
            some += 1
    return weights / some


def gradients() -> F64:
    """Of whole partitions of digits at the start, (l, d)."""
    task = digits.build(1_000_000, "mlp", label_sorted=1.0)
    state = ModelState(task.model, own=True)
    model = PartitionGradients(task, state, PARTS, 0)
    state.load(state.snapshot())
    return np.stack([model.compute(0, j).gradient.astype(np.float64) for j in range(PARTS)])


def bias(weights: F64, grads: F64) -> float:
    return float(np.linalg.norm((weights - 1) @ grads) / np.linalg.norm(grads.sum(0)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20_000, help="measured (default: 20,000)")
    steps = parser.parse_args().steps
    costs = np.repeat([1.0, RATIO], PARTS // 2)
    grads = gradients()
    shuffles = [np.random.default_rng(seed).permutation(PARTS) for seed in range(200)]
    slowness = 0.2 + 0.8 * np.random.default_rng(0).exponential(size=steps)
    for speed, share in [(speed, share) for speed in ("constant", "random") for share in (0.1, 0.2, 0.5, 0.75)]:
        cuts = np.full(steps, share * costs.sum()) / (1.0 if speed == "constant" else slowness)
        theory, measured = weights_by_theory(costs, cuts), measured_weights(costs, cuts)
        row = {
            "cut": share,
            "nothing_done": float(np.mean([(cost > cuts).mean() for cost in costs])),
            "cheap": theory[0],
            "dear": theory[-1],
            "measured_cheap": measured[: PARTS // 2].mean(),
            "measured_dear": measured[PARTS // 2 :].mean(),
            "bias_unrelated": np.mean([bias(theory[shuffle], grads) for shuffle in shuffles]),
            "bias_by_content": bias(theory, grads),
        }
        print(json.dumps({"speed": speed, **{name: round(float(value), 3) for name, value in row.items()}}), flush=True)


if __name__ == "__main__":
    main()
