"""What a quantizer costs in steps: five models, SGD and AdamW, against float32 on the same batches.

    python benchmarks/quantizer_steps.py --json FILE        # one line a run; goes on where it stopped
    python benchmarks/quantizer_steps.py --models transformer --optimizers adamw --seeds 3,4,5 --json FILE
    python benchmarks/quantizer_steps.py --table FILE... > table.md

Each run is `gcdist.simulate` with the default code, four workers and nobody late, so that the quantizer is all that differs.
The loss is the batches' own, and the batches are the same. The table has by how many steps a quantizer is behind float32
after 40% and after 70% of the steps (`lag`): mean over seeds, and their range; beside it by how many steps float32 itself
differs from seed to seed. Parameters go down in float32, but for the variant that says "down" (the default of a run).
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

import gcdist
from gcdist.tasks.digits import arrays, cnn, mlp
from gcdist.types import Layout

WORKERS, NEAR, MARKS = 4, 10, (0.4, 0.7)
RUN = ("model", "optimizer", "seed", "variant")
by_parameter = Layout.by_parameter


def whole(sizes: Any, fingerprint: str = "") -> Layout:
    """One segment: scales and rotations cross from one parameter to the next, as before cuts."""
    return Layout.flat(int(sum(sizes)), fingerprint)


def batchnorm() -> nn.Module:
    """Two convolutions with batch normalisation: 10,010 parameters, 96 of them weights and biases of BatchNorm."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(512, 10),
    )


class Block(nn.Module):
    """A pre-norm transformer block with causal attention."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.merge = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, h: Tensor) -> Tensor:
        batch, length, dim = h.shape
        q, k, v = self.qkv(self.first(h)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        h = h + self.merge(mixed.transpose(1, 2).reshape(batch, length, dim))
        return h + torch.as_tensor(self.down(functional.gelu(self.up(self.second(h)))))


class Transformer(nn.Module):
    """Two blocks of width 64 on a vocabulary of 64: 110,000 parameters, weights of standard deviation 0.02."""

    def __init__(self, vocabulary: int = 64, dim: int = 64, length: int = 32) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(vocabulary, dim), nn.Embedding(length, dim)
        self.blocks = nn.Sequential(Block(dim, 4), Block(dim, 4))
        self.norm, self.out = nn.LayerNorm(dim), nn.Linear(dim, vocabulary, bias=False)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        h = self.token(x) + self.place(torch.arange(x.shape[1]))
        return torch.as_tensor(self.out(self.norm(self.blocks(h))))


def digits() -> TensorDataset:
    images, labels = arrays()
    return TensorDataset(torch.from_numpy(images), torch.from_numpy(labels))


def sequences(count: int = 2048, length: int = 33, vocabulary: int = 64) -> TensorDataset:
    """Each token is a fixed permutation of the one two places before: attention has to find the place."""
    rng = np.random.default_rng(0)
    x, permutation = rng.integers(0, vocabulary, (count, length)), rng.permutation(vocabulary)
    for t in range(2, length):
        x[:, t] = permutation[x[:, t - 2]]
    return TensorDataset(torch.from_numpy(x[:, :-1]), torch.from_numpy(x[:, 1:]))


def regression(count: int = 2048, dim: int = 400) -> TensorDataset:
    rng = np.random.default_rng(5)
    x = rng.standard_normal((count, dim)) * np.logspace(0, -1, dim)
    y = x @ rng.standard_normal((dim, 1)) + 0.1 * rng.standard_normal((count, 1))
    return TensorDataset(torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32))


def entropy(model: nn.Module, batch: Any) -> Tensor:
    return functional.cross_entropy(model(batch[0]).flatten(0, -2), batch[1].flatten())


def square(model: nn.Module, batch: Any) -> Tensor:
    return functional.mse_loss(model(batch[0]), batch[1]) / 2


# model: (make, data, loss, samples of a partition, {optimizer: (step size, steps)})
MODELS: dict[
    str, tuple[Callable[[], nn.Module], Callable[[], TensorDataset], Any, int, dict[str, tuple[float, int]]]
] = {
    "cnn": (cnn, digits, entropy, 4, {"sgd": (0.02, 60), "adamw": (0.002, 60)}),
    "mlp": (mlp, digits, entropy, 4, {"sgd": (0.05, 80), "adamw": (0.003, 80)}),
    "batchnorm": (batchnorm, digits, entropy, 8, {"sgd": (0.02, 50), "adamw": (0.003, 50)}),
    "transformer": (Transformer, sequences, entropy, 4, {"sgd": (0.5, 120), "adamw": (0.003, 80)}),
    "least-squares": (lambda: nn.Linear(400, 1), regression, square, 16, {"sgd": (0.05, 80), "adamw": (0.05, 80)}),
}
# as written: quantizer, bits, whether it is cut along parameters, the way down
VARIANTS = {
    "float32": ("float32", 32, True, "float32"),
    "rotated-dither, whole": ("rotated-dither", 4, False, "float32"),
    "rotated-dither": ("rotated-dither", 4, True, "float32"),
    "rotated-dither, 4 bits down": ("rotated-dither", 4, True, "differences"),
    "dither": ("dither", 4, True, "float32"),
    "bucket": ("bucket", 4, True, "float32"),
    "rotated": ("rotated", 4, True, "float32"),
    "rotated-dither, 8 bits": ("rotated-dither", 8, True, "float32"),
}


def losses(model: str, optimizer: str, seed: int, variant: str) -> tuple[list[float], float]:
    """The loss of each step, and bits of payload a coordinate."""
    make, data, loss, batch, settings = MODELS[model]
    quantizer, bits, cut, down = VARIANTS[variant]
    step_size, steps = settings[optimizer]
    Layout.by_parameter = staticmethod(by_parameter if cut else whole)  # type: ignore[method-assign]
    torch.manual_seed(seed)
    task = gcdist.Task(make(), data(), loss, batch)
    config = gcdist.Config(
        steps=steps,
        seed=seed,
        code={"partitions": WORKERS},
        quantizer={"name": quantizer, "bits": bits, "downlink": down, **({"bits_most": bits} if bits <= 8 else {})},
        straggler={"deadline": "wait"},
        cluster={"workers": WORKERS},
        checkpoint={"keep": 0},
    )
    found = []
    with (
        tempfile.TemporaryDirectory() as folder,
        gcdist.simulate(task, config, folder=Path(folder, "run"), say=lambda kind, text: None) as cluster,
    ):
        parameters = task.model.parameters()
        chosen: torch.optim.Optimizer
        if optimizer == "sgd":
            chosen = torch.optim.SGD(parameters, step_size, momentum=0.9)
        else:
            chosen = torch.optim.AdamW(parameters, step_size)
        for step in cluster.steps(steps):
            info = step.backward()
            found.append(float("nan") if info.loss is None else float(info.loss))
            chosen.step()
        told = cluster.summary()
        saved = (told.bytes_up_float32 - told.bytes_up) / (WORKERS * steps)
    return found, 32 - 8 * saved / sum(p.numel() for p in task.model.parameters())


def lag(base: list[float], other: list[float], mark: float) -> float:
    """Steps that ``other`` is behind ``base`` at ``mark``: how far its log loss is above that of ``base`` on the same
    batches, mean of 21 steps, over the slope of ``base``'s log loss by least squares over 41 steps.

    Crossing a target would be luck: a batch's loss varies more from step to step than it falls.
    """
    at = int(mark * len(base))
    near = slice(max(at - NEAR, 0), at + NEAR + 1)
    wide = np.arange(max(at - 2 * NEAR, 0), min(at + 2 * NEAR + 1, len(base)))
    slope = float(np.polyfit(wide, np.log(base)[wide], 1)[0])
    behind = float(np.mean(np.log(other[near]) - np.log(base[near])))
    return behind / -slope


def spread(curves: list[list[float]], mark: float) -> float:
    """Steps by which seeds differ: standard deviation of the log loss, mean of 21 steps, over the slope."""
    at = int(mark * len(curves[0]))
    near = slice(max(at - NEAR, 0), at + NEAR + 1)
    wide = np.arange(max(at - 2 * NEAR, 0), min(at + 2 * NEAR + 1, len(curves[0])))
    logs = np.log(np.array(curves))
    slope = float(np.polyfit(wide, logs.mean(0)[wide], 1)[0])
    return float(logs[:, near].mean(1).std(ddof=1)) / -slope


def measure(models: list[str], optimizers: list[str], seeds: list[int], variants: list[str], into: Path | None) -> None:
    """One line of JSON a run, float32 first; what ``into`` has already is not measured again."""
    known = set()
    if into is not None and into.exists():
        known = {tuple(run[name] for name in RUN) for run in read(into)}
    for model, optimizer, seed in itertools.product(models, optimizers, seeds):
        for variant in ["float32", *(name for name in variants if name != "float32")]:
            run = (model, optimizer, seed, variant)
            if run in known:
                continue
            curve, bits = losses(*run)
            line = json.dumps(dict(zip(RUN, run, strict=True)) | {"bits": bits, "losses": curve})
            if into is None:
                print(line, flush=True)
            else:
                with into.open("a") as file:
                    file.write(line + "\n")
                print(*run, f"{np.mean(curve[-10:]):.3g}", file=sys.stderr, flush=True)


def read(path: Path) -> list[dict[str, Any]]:
    """The runs of a file of ``--json``."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def summary(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry a model, optimizer and variant: steps behind float32 of each seed, at both marks.

    Float32's own entry has in place of them by how many steps its seeds differ (`spread`).
    """
    curves: dict[tuple[str, str], dict[str, dict[int, list[float]]]] = {}
    bits = {}
    for run in runs:
        of_run = curves.setdefault((run["model"], run["optimizer"]), {})
        of_run.setdefault(run["variant"], {})[run["seed"]] = run["losses"]
        bits[run["model"], run["variant"]] = run["bits"]
    found = []
    for (model, optimizer), of_variant in curves.items():
        base = of_variant["float32"]
        for variant, of_seed in of_variant.items():
            entry: dict[str, Any] = {"model": model, "optimizer": optimizer, "variant": variant, "seeds": len(of_seed)}
            entry["bits"] = round(bits[model, variant], 2)
            entry["last_loss"] = float(f"{np.mean([np.mean(curve[-10:]) for curve in of_seed.values()]):.3g}")
            for mark in MARKS:
                if variant == "float32":
                    entry[f"spread_{mark}"] = round(spread(list(base.values()), mark), 2)
                else:
                    late = [round(lag(base[seed], curve, mark), 2) for seed, curve in sorted(of_seed.items())]
                    entry[f"behind_{mark}"] = late
            entry["steps"] = len(next(iter(of_seed.values())))
            found.append(entry)
    return found


def table(entries: list[dict[str, Any]], mark: float) -> str:
    """Steps behind float32 at ``mark``: mean (least to most); one line a model and optimizer, one column a variant."""
    variants = list(dict.fromkeys(entry["variant"] for entry in entries if entry["variant"] != "float32"))
    cells = {(e["model"], e["optimizer"], e["variant"]): e for e in entries}
    lines = [["model", "optimizer", "step", "seeds differ by", *variants]]
    lines.append(["---"] * len(lines[0]))
    for model, optimizer in dict.fromkeys((entry["model"], entry["optimizer"]) for entry in entries):
        base = cells[model, optimizer, "float32"]
        line = [model, optimizer, str(int(mark * base["steps"])), f"{base[f'spread_{mark}']:.1f}"]
        for variant in variants:
            entry = cells.get((model, optimizer, variant))
            late = [] if entry is None else entry[f"behind_{mark}"]
            line.append(f"{np.mean(late):+.1f} ({min(late):+.1f} to {max(late):+.1f})" if late else "")
        lines.append(line)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--optimizers", default="sgd,adamw")
    parser.add_argument("--variants", default=";".join(VARIANTS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument(
        "--json", type=Path, help="file to which one line a run is added; runs that it has are left out"
    )
    parser.add_argument("--table", type=Path, nargs="+", help="print the table of these files and measure nothing")
    parser.add_argument("--mark", type=float, choices=MARKS, default=MARKS[-1], help="of the table: share of the steps")
    parser.add_argument("--summary", type=Path, help="with --table: write its figures here")
    args = parser.parse_args()
    if args.table:
        found = summary([run for path in args.table for run in read(path)])
        print(table(found, args.mark))
        if args.summary:
            lines = ",\n".join(json.dumps(entry) for entry in found)
            args.summary.write_text(f"[\n{lines}\n]\n")
        return
    torch.set_num_threads(1)
    seeds = [int(seed) for seed in args.seeds.split(",")]
    measure(args.models.split(","), args.optimizers.split(","), seeds, args.variants.split(";"), args.json)


if __name__ == "__main__":
    main()
