"""Noise of every quantizer on real gradients: measures, draws the plot, and fills the tables of docs/quantizers.md.

    python benchmarks/quantizer_noise.py [--json]

The gradients are those of a small network (64-256-128-10, 50,826 parameters) trained here on 8x8 images of ten noisy
prototypes: single batches of 16 at steps 0, 50 and 400. Speeds come from benchmarks/results/kernels.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch

from gcdist.quantize import bits_allowed, decode, get_quantizer, quantizer_names
from gcdist.types import F32, Key

HERE = Path(__file__).parent
PAGE, PLOT = HERE.parent / "docs/quantizers.md", HERE.parent / "docs/img/quantizer-noise.png"
SPEEDS = HERE / "results/kernels.json"
STEPS = (0, 50, 400)
REPEATS = 20
PLOTTED = ("dither", "bucket", "qsgd", "rotated", "rotated-dither", "eden")


def gradients() -> dict[int, F32]:
    """Flat gradients of single batches at `STEPS` of a training run."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    prototypes = torch.nn.functional.interpolate(torch.rand(10, 1, 4, 4), size=(8, 8), mode="bilinear").reshape(10, 64)
    model = torch.nn.Sequential(
        torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    found = {}
    for step in range(max(STEPS) + 1):
        label = torch.randint(10, (16,))
        image = (prototypes[label] + 0.3 * torch.randn(16, 64)).clamp(0, 1)
        image = image * (image > 0.3)  # most borders of digits are exactly black
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(image), label).backward()  # type: ignore[no-untyped-call]
        if step in STEPS:
            found[step] = np.concatenate([p.grad.numpy().ravel() for p in model.parameters() if p.grad is not None])
        optimizer.step()
    return found


def noise(name: str, bits: int, x: F32) -> float:
    """Mean ``|Q(x)-x|^2/|x|^2`` over `REPEATS` keys, from decoded vectors."""
    quantizer, value = get_quantizer(name), np.empty_like(x)
    payload, total = np.empty(quantizer.nbytes(len(x), bits), np.uint8), 0.0
    for step in range(REPEATS):
        quantizer.encode(x, bits, Key(1, step, 0, 0), payload)
        decode(quantizer, payload, len(x), bits, Key(1, step, 0, 0), value)
        total += float(np.sum((value.astype(np.float64) - x) ** 2) / np.sum(x.astype(np.float64) ** 2))
    return total / REPEATS


def eden_bias(kind: str, bits: int, draws: int = 20_000, d: int = 1024) -> float:
    """``|E Q(x) - x|^2/|x|^2`` from two independent halves of the draws; it can fall below 0.

    Along x a vector of one block has no error at all: ``<Q(x), x> = S <q, y> = |x|^2``.
    """
    x = np.zeros(d, np.float32)
    x[{"one-hot": [3], "two-hot": [3, 700], "ten-hot": range(0, 1000, 100), "constant": range(d)}[kind]] = 1
    quantizer, value, sums = get_quantizer("eden"), np.empty_like(x), np.zeros((2, d))
    payload = np.empty(quantizer.nbytes(d, bits), np.uint8)
    for step in range(draws):
        quantizer.encode(x, bits, Key(2, step, 0, 0), payload)
        decode(quantizer, payload, d, bits, Key(2, step, 0, 0), value)
        sums[step % 2] += value
    bias = sums / (draws / 2) - x
    energy = float(np.sum(x))
    return float(np.dot(bias[0], bias[1])) / energy


def measure() -> dict[str, Any]:
    vectors = gradients()
    rows = [
        {
            "quantizer": name,
            "bits": bits,
            "law": get_quantizer(name).noise(bits, len(vectors[0])),
            **{f"step {step}": noise(name, bits, x) for step, x in vectors.items()},
        }
        for name in quantizer_names()
        for bits in bits_allowed(get_quantizer(name))
        if name != "float32"
    ]
    bias = [
        {"vector": kind, "bits": bits, "square": eden_bias(kind, bits)}
        for kind in ("one-hot", "two-hot", "ten-hot", "constant")
        for bits in (1, 2, 4)
    ]
    zeros = {step: float(np.mean(x == 0)) for step, x in vectors.items()}
    return {"d": len(vectors[0]), "zeros": zeros, "noise": rows, "eden_bias": bias}


def draw(result: dict[str, Any]) -> None:
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(STEPS), figsize=(12, 4), sharey=True, layout="constrained")
    for axis, step in zip(axes, STEPS, strict=True):
        for color, name in zip(("C0", "C1", "C2", "C3", "C4", "C5"), PLOTTED, strict=True):
            rows = [row for row in result["noise"] if row["quantizer"] == name]
            bits = [row["bits"] for row in rows]
            axis.semilogy(bits, [row[f"step {step}"] for row in rows], "o-", color=color, label=name, markersize=4)
            axis.semilogy(bits, [row["law"] for row in rows], ":", color=color, linewidth=1)
        axis.set_title(f"gradient at step {step}")
        axis.set_xlabel("packed bits a coordinate")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("|Q(x) - x|² / |x|²")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, title="dotted: the law", loc="outside right upper")
    PLOT.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PLOT, dpi=90)


def table(head: list[str], lines: list[list[str]]) -> str:
    cells = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def noise_table(result: dict[str, Any]) -> str:
    columns = ["law", *(f"step {step}" for step in STEPS)]
    wanted = [row for row in result["noise"] if row["bits"] in (1, 2, 3, 4, 8, 16)]
    lines = [[row["quantizer"], str(row["bits"]), *(f"{row[c]:.3g}" for c in columns)] for row in wanted]
    return table(["quantizer", "bits", "law (dense)", *columns[1:]], lines)


def speed_table(result: dict[str, Any]) -> str:
    speeds = json.loads(SPEEDS.read_text())
    columns = ("copy", "encode", "add", "finish", "torch_encode", "torch_add")
    lines = [
        [row["quantizer"], str(row["bits"]), f"{row['d']:,}", *(str(row.get(column, "")) for column in columns)]
        for row in speeds["rows"]
        if row["bits"] in (4, 16, 32)
    ]
    head = ["quantizer", "bits", "d", "copy", "encode", "decode-add", "finish", "torch encode", "torch add"]
    return table(head, lines)


def cold_line(result: dict[str, Any]) -> str:
    cold = json.loads(SPEEDS.read_text())["cold_start_seconds"]
    return (
        f"Seconds until a process can encode and decode, beside `import` ({cold['import_all_cached']}, mostly numba's): "
        f"the first one {cold['dither_compiled']} for `dither` and {cold['all_compiled']} for all quantizers, later ones "
        f"{cold['dither_cached']} and {cold['all_cached']}."
    )


def bias_table(result: dict[str, Any]) -> str:
    lines = [[r["vector"], str(r["bits"]), f"{r['square']:+.1e}"] for r in result["eden_bias"]]
    return table(["vector (d = 1024)", "bits", "square of the bias over that of x"], lines)


def fill(text: str, name: str, body: str) -> str:
    start, stop = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
    before, rest = text.split(start)
    return before + start + body + stop + rest.split(stop)[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the measurements")
    arguments = parser.parse_args()
    result = measure()
    draw(result)
    text = PAGE.read_text()
    for name, make in (("noise", noise_table), ("speeds", speed_table), ("bias", bias_table), ("cold", cold_line)):
        text = fill(text, name, make(result))
    PAGE.write_text(text)
    if arguments.json:
        print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
