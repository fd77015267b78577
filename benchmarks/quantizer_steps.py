"""What a quantizer costs in steps: five models, SGD and AdamW, against float32 on the same batches.

    python benchmarks/quantizer_steps.py --models transformer --optimizers adamw --seeds 0,1,2 --json FILE
    python benchmarks/quantizer_steps.py --table FILE... > table.md

Each run is `gcdist.simulate` with the default code, four workers and nobody late, so that the quantizer is all that differs.
The loss is the batches' own, and the batches are the same. What is written down is by how many steps a quantizer is behind
float32 after 40% and after 70% of the steps (`lag`): mean over seeds, and their range.
"""

from __future__ import annotations

import argparse
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
# as written: quantizer, bits, whether it is cut along parameters
VARIANTS = {
    "float32": ("float32", 32, True),
    "rotated-dither, whole": ("rotated-dither", 4, False),
    "rotated-dither": ("rotated-dither", 4, True),
    "dither": ("dither", 4, True),
    "bucket": ("bucket", 4, True),
    "rotated": ("rotated", 4, True),
    "rotated-dither, 8 bits": ("rotated-dither", 8, True),
}


def losses(model: str, optimizer: str, seed: int, variant: str) -> tuple[list[float], float]:
    """The loss of each step, and bits of payload a coordinate."""
    make, data, loss, batch, settings = MODELS[model]
    quantizer, bits, cut = VARIANTS[variant]
    step_size, steps = settings[optimizer]
    Layout.by_parameter = staticmethod(by_parameter if cut else whole)  # type: ignore[method-assign]
    torch.manual_seed(seed)
    task = gcdist.Task(make(), data(), loss, batch)
    config = gcdist.Config(
        steps=steps,
        seed=seed,
        code={"partitions": WORKERS},
        quantizer={"name": quantizer, "bits": bits, **({"bits_most": bits} if bits <= 8 else {})},  # all alike
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


def lag(base: list[float], other: list[float], mark: float) -> tuple[int, float]:
    """(step, steps that ``other`` is behind ``base`` there): how far its log loss is above that of ``base`` on the same
    batches, mean of 21 steps, over the slope of ``base``'s log loss by least squares over 41 steps.

    Crossing a target would be luck: a batch's loss varies more from step to step than it falls.
    """
    at = int(mark * len(base))
    near = slice(max(at - NEAR, 0), at + NEAR + 1)
    wide = np.arange(max(at - 2 * NEAR, 0), min(at + 2 * NEAR + 1, len(base)))
    slope = float(np.polyfit(wide, np.log(base)[wide], 1)[0])
    behind = float(np.mean(np.log(other[near]) - np.log(base[near])))
    return at, behind / -slope


def measured(model: str, optimizer: str, seeds: list[int], variants: list[str]) -> list[dict[str, Any]]:
    """One entry a variant; float32 is always measured, first."""
    rows: list[dict[str, Any]] = []
    base: dict[int, list[float]] = {}
    for variant in ["float32", *(v for v in variants if v != "float32")]:
        late: list[list[float]] = [[] for _ in MARKS]
        marks, bits, last = [0 for _ in MARKS], 0.0, 0.0
        for seed in seeds:
            curve, bits = losses(model, optimizer, seed, variant)
            last += float(np.mean(curve[-10:])) / len(seeds)
            base.setdefault(seed, curve)
            for i, mark in enumerate(MARKS):
                marks[i], steps = lag(base[seed], curve, mark)
                late[i].append(steps)
        rows.append(
            {"model": model, "optimizer": optimizer, "variant": variant, "bits": bits, "late": late, "loss": last}
        )
        rows[-1]["marks"] = marks
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return rows


def merged(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry a model, optimizer and variant: seeds that were measured apart are put together."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in rows:
        key = (row["model"], row["optimizer"], row["variant"])
        if key not in found:
            found[key] = {**row, "late": [list(late) for late in row["late"]]}
            continue
        mine = found[key]
        old, new = len(mine["late"][0]), len(row["late"][0])
        mine["loss"] = (mine["loss"] * old + row["loss"] * new) / (old + new)
        for late, more in zip(mine["late"], row["late"], strict=True):
            late.extend(more)
    return list(found.values())


def table(rows: list[dict[str, Any]]) -> str:
    """Steps behind float32, at both marks: mean (least to most)."""
    head = [
        "model",
        "optimizer",
        "quantizer, 4 bits",
        "bits a coordinate",
        "steps behind at 40%",
        "at 70%",
        "last loss",
    ]
    lines = []
    for row in merged(rows):
        cells = [f"{np.mean(late):+.1f} ({min(late):+.1f} to {max(late):+.1f})" for late in row["late"]]
        if row["variant"] == "float32":
            cells = [f"(at step {mark})" for mark in row["marks"]]
        lines.append(
            [row["model"], row["optimizer"], row["variant"], f"{row['bits']:.2f}", *cells, f"{row['loss']:.3g}"]
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--optimizers", default="sgd,adamw")
    parser.add_argument("--variants", default="rotated-dither, whole;rotated-dither;dither;bucket")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--json", type=Path, help="file to which one line a variant is added")
    parser.add_argument("--table", type=Path, nargs="+", help="print the table of these files and measure nothing")
    args = parser.parse_args()
    if args.table:
        print(table([json.loads(line) for path in args.table for line in path.read_text().splitlines()]))
        return
    torch.set_num_threads(1)
    for model in args.models.split(","):
        for optimizer in args.optimizers.split(","):
            seeds = [int(seed) for seed in args.seeds.split(",")]
            rows = measured(model, optimizer, seeds, args.variants.split(";"))
            if args.json:
                with args.json.open("a") as file:
                    file.writelines(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    main()
