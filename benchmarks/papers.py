"""The papers' experiment at the papers' quantizer: codes at equal bits a step, 50 workers on a virtual clock.

    python benchmarks/papers.py [--steps 100] [--seeds 5] [--json FILE] [--plot FILE]

``p_i = exp(-mu_i (Z-1))``, ``mu_i ~ U[0.01, 2]``, ``Z = 1.1``: every step takes 1.1 times the least time, and a message is
lost with p_i. ``qsgd`` has one norm over the whole vector; its packed width is the papers' magnitude bits and a sign, so
that the papers' B = 250, 150 and 100 bits of all 50 workers are 300, 200 and 150 packed ones. `bucket` and
`rotated-dither` beside it, at 3 and 2 packed bits a worker, and `rotated-dither` at 1, the only one that has this width.

Designs, weights and quantizers are gcdist's own; gradients are real ones of the digits' perceptron (9,610 parameters), one
of each of 50 partitions a step. The simulator's master and links are left out, because deadline and arrivals are given. The
step size is the best of a grid for each method, quantizer and budget, on a seed that is not the benchmark's; the grid
grows while its best is on an edge.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from gcdist.bench.problems import get_problem
from gcdist.coding import get_code, row_costs
from gcdist.config import ConfigError
from gcdist.model.batches import Batches
from gcdist.quantize import decode, get_quantizer, noise_table
from gcdist.types import F32, F64, Key, Plan, Problem, StepTerms

N, Z, BATCH = 50, 1.1, 2
MOST_BITS = 8  # a coordinate
METHODS: dict[str, dict[str, Any]] = {
    "joint": {},
    "osgc": {},
    "sgc": {"r": 2},
    "bgc": {"r": 2.0},
    "erasurehead": {"r": 2},
    "ignore": {},
}
SETTINGS = (
    *(("qsgd", bits) for bits in (300, 200, 150)),
    *(("bucket", bits) for bits in (150, 100)),
    *(("rotated-dither", bits) for bits in (150, 100, 50)),
)
GRID, GROW_MOST = (0.2, 0.4, 0.8), 6
TUNING_SEED = 1001
EVERY = 5  # steps between two looks at the loss
EXPLODED = 1e3
ACROSS = 4  # panels in a row of the picture


def chances() -> F64:
    """p_i, the same for all seeds and methods."""
    return np.exp(-np.random.default_rng(0).uniform(0.01, 2.0, N) * (Z - 1))


def design(method: str, name: str, budget: int, d: int) -> Plan:
    """The code for these p and bits."""
    p_N, noise = chances(), noise_table(get_quantizer(name), d, MOST_BITS)
    problem = Problem(
        np.full(N, 1 / N), lambda i, load_L: np.full(len(load_L), p_N[i]), noise, float(budget),
        np.full(N, len(noise) - 1), np.full(N, np.inf),
    )  # fmt: skip
    return get_code(method, **METHODS[method]).design(problem, 0)


def planned(plan: Plan, name: str, d: int) -> float:
    """``sum_i c_i Y_i^2 / k^2``: the noise ratio if all partitions had the same gradient and inverse weights."""
    bits_R = plan.bits_RS[:, 0]
    used = bits_R > 0
    cost_R = row_costs(plan.p_R[used], noise_table(get_quantizer(name), d, MOST_BITS)[bits_R[used]])
    return float(np.sum(cost_R * (np.asarray(plan.A_RK.sum(axis=1)).ravel()[used] / N) ** 2))


class Digits:
    """The gradients of all partitions at once, and the loss over the whole training set."""

    def __init__(self, seed: int) -> None:
        self.task = get_problem("digits").make(seed)
        self.batches = Batches(self.task, N, seed, "epochs")
        self.images, self.labels = self.task.dataset.images, torch.tensor(self.task.dataset.labels)
        self.names = [name for name, _ in self.task.model.named_parameters()]
        self.shapes = [p.shape for p in self.task.model.parameters()]
        self.x = torch.cat([p.detach().reshape(-1) for p in self.task.model.parameters()])
        self._grads = torch.func.vmap(torch.func.grad(self._loss), in_dims=(None, 0, 0))

    def _loss(self, x: torch.Tensor, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        pieces = x.split([shape.numel() for shape in self.shapes])  # type: ignore[no-untyped-call]
        named = {name: p.view(s) for name, p, s in zip(self.names, pieces, self.shapes, strict=True)}
        return cross_entropy(torch.func.functional_call(self.task.model, named, (images,)), labels)

    def gradients(self, step: int) -> F32:
        """(N, d): g_j, whose sum is the gradient."""
        index = torch.tensor([[int(i) for i in self.batches.samples(step, j)] for j in range(N)])
        found: F32 = (self._grads(self.x, self.images[index], self.labels[index]) / N).numpy()
        return found

    def loss(self) -> float:
        """Over the training set."""
        with torch.no_grad():
            return float(self._loss(self.x, self.images, self.labels))


def estimate(plan: Plan, method: str, name: str, grads_KD: F32, step: int, seed: int) -> tuple[F32, int]:
    """The decoded gradient of one step (d,), and the bytes that all workers sent."""
    code, quantizer, d = get_code(method, **METHODS[method]), get_quantizer(name), grads_KD.shape[1]
    decoder = code.open(plan, StepTerms(Z, plan.p_R))
    rng = np.random.default_rng((seed, step))
    here_N, order_N = rng.random(N) >= chances(), rng.permutation(N)
    sent, added, messages, value = 0, np.zeros(d, np.float32), {}, np.empty(d, np.float32)
    place = np.argsort(order_N)[plan.worker_R]
    for row in np.argsort(place, kind="stable"):
        bits = int(plan.bits_RS[row, 0])
        if bits == 0 or not here_N[plan.worker_R[row]]:
            continue
        key, payload = Key(seed, step, int(row), 0), np.empty(quantizer.nbytes(d, bits), np.uint8)
        message = np.asarray(plan.A_RK[[row]] @ grads_KD, np.float32).ravel()
        quantizer.encode(message, bits, key, payload)
        decode(quantizer, payload, d, bits, key, value)
        sent += len(payload)
        use = decoder.arrive(int(row))
        if use.weight is None:
            messages[int(row)] = value.copy()
        else:
            added += np.float32(use.weight) * value
    closing = decoder.close()
    total = np.float32(closing.scale) * added
    for row, weight in closing.kept:
        total = total + np.float32(weight) * messages[row]
    return total, sent


def run(method: str, name: str, budget: int, lr: float, seed: int, steps: int) -> dict[str, Any]:
    """One run: (step, loss, megabytes up) curve and the mean noise ratio observed."""
    digits = Digits(seed)
    plan = design(method, name, budget, len(digits.x))
    curve, sent, noises = [(0, digits.loss(), 0.0)], 0, []
    for step in range(steps):
        grads_KD = digits.gradients(step)
        made, size = estimate(plan, method, name, grads_KD, step, seed)
        true = grads_KD.sum(axis=0)
        noises.append(float(np.sum((made - true) ** 2) / np.sum(true**2)))
        digits.x = digits.x - lr * torch.from_numpy(made)
        sent += size
        if (step + 1) % EVERY == 0:
            loss = digits.loss()
            curve.append((step + 1, loss if math.isfinite(loss) else math.inf, sent / 1e6))
            if not loss < EXPLODED:
                break
    return {"curve": curve, "noise": statistics.median(noises), "lr": lr}


def last(found: dict[str, Any]) -> float:
    """Mean loss of the last three looks."""
    value = statistics.mean(point[1] for point in found["curve"][-3:])
    return value if math.isfinite(value) and value < EXPLODED else math.inf


def tuned(method: str, name: str, budget: int, steps: int) -> float:
    """The best step size of a geometric grid, which grows while its best is on an edge."""
    cost = {lr: last(run(method, name, budget, lr, TUNING_SEED, steps)) for lr in GRID}
    for _ in range(GROW_MOST):
        best = min(cost, key=lambda lr: (cost[lr], lr))
        beyond = best / 2 if best == min(cost) or math.isinf(cost[best]) else best * 2
        if best not in (min(cost), max(cost)):
            break
        cost[beyond] = last(run(method, name, budget, beyond, TUNING_SEED, steps))
    return min(cost, key=lambda lr: (cost[lr], lr))


def plot(rows: list[dict[str, Any]], steps: int, path: Path) -> None:
    """A panel a setting: training loss by iterations (virtual time is 1.1 of it), mean of the seeds, range shaded."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    shown = [s for s in SETTINGS if any((r["quantizer"], r["budget"]) == s for r in rows)]
    across, bands = min(ACROSS, len(shown)), math.ceil(len(shown) / ACROSS)
    size = 3.3 * across + 1, 6.4 * bands
    figure, grid = plt.subplots(2 * bands, across, figsize=size, squeeze=False, layout="constrained")
    # two rows of panels for each band of settings: iterations above, megabytes below
    axes = grid.reshape(bands, 2, across).transpose(1, 0, 2).reshape(2, -1)
    for axis in axes[:, len(shown) :].ravel():
        axis.set_visible(False)
    styles = ["-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1))]
    for (name, budget), column in zip(shown, axes.T[: len(shown)], strict=True):
        for i, row in enumerate(r for r in rows if (r["quantizer"], r["budget"]) == (name, budget)):
            curves = [np.array(c) for c in row["curves"] if c[-1][0] == steps]
            if not curves:
                continue
            at, loss = curves[0][:, 0], np.array([c[:, 1] for c in curves])
            for axis, x in zip(column, (at, np.mean([c[:, 2] for c in curves], axis=0)), strict=True):
                axis.plot(x, loss.mean(0), color=f"C{i}", ls=styles[i % 6], label=row["method"])
                axis.fill_between(x, loss.min(0), loss.max(0), color=f"C{i}", alpha=0.12, linewidth=0)
                axis.set_yscale("log")
                axis.grid(alpha=0.3)
        column[0].set(title=f"{name}, {budget} bits", xlabel=f"iterations (virtual time: times {Z})")
        column[1].set(xlabel="megabytes up")
    for axis in grid[:, 0]:
        axis.set_ylabel("training loss")
    axes[0, 0].legend(fontsize=7)
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--settings", help='of all, e.g. "qsgd:300,bucket:150"; without it all')
    parser.add_argument("--json", type=Path, help="results; what it has already is not run again")
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    asked = [
        (n, int(b)) for n, b in (word.split(":") for word in (options.settings or "").split(",") if word)
    ] or SETTINGS
    document: dict[str, Any] = {"benchmark": "papers", "steps": options.steps, "seeds": options.seeds, "rows": []}
    if options.json and options.json.exists():
        old = json.loads(options.json.read_text())
        document["rows"] = old["rows"] if (old["steps"], old["seeds"]) == (options.steps, options.seeds) else []
    document["machine"] = {"python": platform.python_version(), "torch": torch.__version__}
    rows = document["rows"]
    heads = (
        ("quantizer", 15),
        ("bits", 5),
        ("method", 12),
        ("lr", 6),
        ("planned", 9),
        ("observed", 9),
        ("last loss", 21),
    )
    print(" ".join(f"{name:>{width}}" for name, width in (*heads, ("MB", 5), ("active", 6))))
    for name, budget in asked:
        for method in METHODS:
            if any((r["quantizer"], r["budget"], r["method"]) == (name, budget, method) for r in rows):
                continue
            try:
                plan = design(method, name, budget, len(Digits(0).x))
            except (ConfigError, ValueError) as error:
                print(f"{name:>15} {budget:>5} {method:>12} not possible: {error}")
                continue
            lr = tuned(method, name, budget, options.steps)
            runs = [run(method, name, budget, lr, seed, options.steps) for seed in range(options.seeds)]
            losses = [last(found) for found in runs]
            row = {
                "quantizer": name,
                "budget": budget,
                "method": method,
                "lr": lr,
                "noise_planned": planned(plan, name, len(Digits(0).x)),
                "noise_observed": statistics.mean(found["noise"] for found in runs),
                "loss": statistics.mean(losses),
                "least": min(losses),
                "most": max(losses),
                "megabytes": statistics.mean(found["curve"][-1][2] for found in runs),
                "active": int(np.count_nonzero(plan.bits_RS[:, 0])),
                "bits": int(plan.bits_RS[:, 0].sum()),
                "curves": [found["curve"] for found in runs],
            }
            rows.append(row)
            line = f"{name:>15} {budget:>5} {method:>12} {lr:>6.3g} {row['noise_planned']:>9.3g} "
            line += f"{row['noise_observed']:>9.3g} {row['loss']:>7.3f} ({row['least']:.3f}-{row['most']:.3f}) "
            print(f"{line} {row['megabytes']:>5.2f} {row['active']:>6}", flush=True)
            if options.json:
                options.json.write_text(json.dumps(document) + "\n")
    if options.plot:
        plot(rows, options.steps, options.plot)


if __name__ == "__main__":
    main()
