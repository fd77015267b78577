"""Training with few bits on the way down against float32: the same seeds, steps and settings, in the simulator.

    python benchmarks/downlink.py [--tasks digits-cnn,...] [--seeds 3] [--downlinks float32,8,4,3,2] [--out FILE.json]

Four workers without delays, `joint` with 4 bits up (the defaults); `least-squares` with `shifted`, exact gradients and
blocks that differ; `detector` is the compact one on 48 images of ``--coco``. Each line is JSON: the loss over all training
samples at the end (mean over the seeds, the smallest and the largest), and bytes down a step. With ``--out`` the lines are
also written to that file, and what it has already is not measured again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

import gcdist
from gcdist.tasks import digits, load_task

WORKERS = 4


class BatchNormNet(nn.Sequential):
    """Three convolutions with batch statistics, 11,258 parameters."""

    def __init__(self) -> None:
        def block(inner: int, outer: int, stride: int) -> list[nn.Module]:
            return [nn.Conv2d(inner, outer, 3, stride, 1, bias=False), nn.BatchNorm2d(outer), nn.ReLU()]

        super().__init__(
            *block(1, 16, 1),
            *block(16, 32, 2),
            *block(32, 20, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(20, 10),
        )


class Transformer(nn.Module):
    """Two layers of width 32 over the 8 rows of a digit, 26,058 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Linear(8, 32)
        self.places = nn.Parameter(0.1 * torch.randn(8, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.classes = nn.Linear(32, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Scores (n, 10) of images (n, 1, 8, 8)."""
        scores: Tensor = self.classes(self.layers(self.rows(images.squeeze(1)) + self.places).mean(1))
        return scores


def sgd(lr: float, momentum: float = 0.9) -> Callable[[nn.Module], torch.optim.Optimizer]:
    """The optimizer of a model."""
    return lambda model: torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)


def adamw(lr: float) -> Callable[[nn.Module], torch.optim.Optimizer]:
    """The same."""
    return lambda model: torch.optim.AdamW(model.parameters(), lr=lr)


# model (None: the task's own), optimizer, steps
TASKS: dict[str, tuple[Callable[[], nn.Module] | None, Callable[[nn.Module], torch.optim.Optimizer], int]] = {
    "digits-cnn": (digits.cnn, sgd(0.05), 100),
    "digits-mlp": (digits.mlp, sgd(0.05), 150),
    "batch-norm": (BatchNormNet, sgd(0.05), 100),
    "transformer-adamw": (Transformer, adamw(3e-3), 150),
    "detector": (None, lambda model: torch.optim.Adam(model.parameters(), lr=2e-3), 30),
    "least-squares": (None, sgd(0.3, 0.0), 600),
}
COCO = {"size": 64, "images": 48, "augment": False, "val": "train2017", "eval_images": 48, "eval_ap": False}


def run(name: str, downlink: str, seed: int, folder: Path, coco: str) -> tuple[float, float]:
    """One run: the loss at the end (least squares: excess over that at the start), and bytes down a step."""
    make, optimizer_of, steps = TASKS[name]
    quantizer: dict[str, Any] = {"downlink": "float32"} if downlink == "float32" else {"downlink_bits": int(downlink)}
    config: dict[str, Any] = {"cluster": {"workers": WORKERS}, "seed": seed, "quantizer": quantizer}
    torch.manual_seed(seed)
    if name == "detector":
        task = load_task("coco", {**COCO, "root": coco, "seed": seed, "cache": str(folder.parent / "cache")}, 2, folder)
    elif make is None:
        task = load_task("least-squares", {"samples": 512, "dim": 100, "seed": seed}, 512, folder)
        config["code"] = {"scheme": "shifted"}
    else:
        task = replace(load_task("digits", {"seed": seed}, 16, folder), model=make())
    with gcdist.simulate(task, gcdist.Config(**config), folder=folder, say=lambda kind, text: None) as cluster:
        optimizer = optimizer_of(task.model)
        first, down = loss_of(task), 0
        for step in cluster.steps(steps):
            down += step.backward().bytes_down
            optimizer.step()
    last = loss_of(task)
    return (last / first if name == "least-squares" else last), down / steps


def loss_of(task: gcdist.Task) -> float:
    """Over all training samples, in eval mode; least squares: above the minimum."""
    samples: Any = task.dataset
    if not isinstance(getattr(samples, "images", None), Tensor):
        assert task.evaluate is not None
        found = task.evaluate(task.model)
        return found["excess_loss"] if "excess_loss" in found else found["test_loss"]
    task.model.eval()
    with torch.no_grad():
        labels = torch.tensor(samples.labels)
        loss = float(nn.functional.cross_entropy(task.model(samples.images), labels))
    task.model.train()
    return loss


def measure(names: Sequence[str], downlinks: Sequence[str], seeds: int, out: Path | None, coco: str) -> None:
    """A line for each task and downlink."""
    lines = json.loads(out.read_text()) if out is not None and out.exists() else []
    known = {(line["task"], line["down"]) for line in lines}
    for name in names:
        for downlink in downlinks:
            if (name, downlink) in known:
                continue
            with tempfile.TemporaryDirectory() as folder:
                found = [run(name, downlink, seed, Path(folder) / str(seed), coco) for seed in range(seeds)]
            losses = [loss for loss, _ in found]
            line = {
                "task": name,
                "down": downlink,
                "loss": fmean(losses),
                "least": min(losses),
                "most": max(losses),
                "bytes_down": fmean(nbytes for _, nbytes in found),
            }
            print(json.dumps(line), flush=True)
            lines.append(line)
            if out is not None:
                out.write_text(json.dumps(lines, indent=1) + "\n")


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description="few bits on the way down against float32, in the simulator")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--downlinks", default="float32,8,4,3,2")
    parser.add_argument("--coco", default="../shared/data/coco-small", help="folder of the detector's images")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    measure(given.tasks.split(","), given.downlinks.split(","), given.seeds, given.out, given.coco)


if __name__ == "__main__":
    main()
