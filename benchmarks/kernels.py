"""Speed of every quantizer, one thread: encode and decode-add in GB/s of float32, beside a copy and plain torch.

python benchmarks/kernels.py            # a table
python benchmarks/kernels.py --json     # the same as JSON
python benchmarks/kernels.py --sizes 1e6 1e7 --bits 4
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gcdist.quantize import bits_allowed, get_quantizer, quantizer_names
from gcdist.quantize.codebook import centroids, thresholds
from gcdist.quantize.hadamard import rotate
from gcdist.types import F32, Key

COLD = """
import time; start = time.perf_counter()
from gcdist.quantize import get_quantizer, warm
imported = time.perf_counter()
for name in {names}: warm(get_quantizer(name))
print(imported - start, time.perf_counter() - imported)
"""


def seconds(works: dict[str, Callable[[], object]], budget: float = 1.5) -> dict[str, float]:
    """Best time of each; they take turns, so that a busy moment of the machine hits all alike."""
    best = dict.fromkeys(works, float("inf"))
    begin, rounds = time.perf_counter(), 0
    while rounds < 4 or time.perf_counter() - begin < budget:
        for what, work in works.items():
            start = time.perf_counter()
            work()
            best[what] = min(best[what], time.perf_counter() - start)
        rounds += 1
    return best


def hadamard(x: torch.Tensor) -> torch.Tensor:
    """Hadamard transform of rows of 4096, by reshaping."""
    y = x.reshape(-1, 4096)
    h = 1
    while h < 4096:
        pair = y.reshape(-1, 4096 // (2 * h), 2, h)
        y = torch.stack((pair[:, :, 0] + pair[:, :, 1], pair[:, :, 0] - pair[:, :, 1]), dim=2)
        h *= 2
    return y.reshape(-1, 4096) / 64


def plain_torch(name: str, bits: int, x_np: F32) -> tuple[Callable[[], Any], Callable[[], Any]] | None:
    """The obvious torch operations for encode and decode-add; they pack nothing and fill one byte a coordinate."""
    x, out = torch.from_numpy(x_np), torch.zeros(len(x_np))
    short, width = max(1, 2 ** (bits - 1) - 1), 4096 if name == "eden" or name.startswith("rotated") else 512
    if len(x) % width or name in ("float32", "qsgd"):
        return None
    if name == "bfloat16":
        half = x.to(torch.bfloat16)
        return lambda: x.to(torch.bfloat16), lambda: out.add_(half)
    signs = torch.randint(0, 2, (width,)).float() * 2 - 1
    table, edges = torch.from_numpy(centroids(bits)), torch.from_numpy(thresholds(bits)[:-1].copy())

    def encode() -> tuple[torch.Tensor, torch.Tensor]:
        y = x.reshape(-1, width)
        if name == "eden":
            y = hadamard(hadamard(y * signs) * signs)
            unit = y.norm(dim=1, keepdim=True) / 64
            code = torch.bucketize(y / unit, edges).to(torch.uint8)
            return code, unit**2 * width / (table[code.int()] * y).sum(1, keepdim=True)
        if name.startswith("rotated"):
            y = hadamard(y * signs)
        scale = y.abs().amax(1, keepdim=True) / short
        return torch.floor(y / scale + torch.rand_like(y)).to(torch.int8), scale

    code, scale = encode()

    def add() -> object:
        if name == "eden":
            return out.add_((hadamard(hadamard(table[code.int()] * scale) * signs) * signs).reshape(-1))
        value = code.float()
        if name.endswith("dither"):
            value = value - torch.rand_like(value)
        return out.add_((value * scale).reshape(-1))

    return encode, add


def one_row(name: str, bits: int, x: F32, y: F32, *, with_torch: bool) -> dict[str, Any]:
    """Speeds of one quantizer on x; y is scratch of the same length."""
    quantizer, key, d = get_quantizer(name), Key(1, 2, 3, 0), len(x)
    payload, sums = np.empty(quantizer.nbytes(d, bits), np.uint8), quantizer.accumulator(d, key)
    works: dict[str, Callable[[], object]] = {
        "copy": lambda: np.copyto(y, x),
        "encode": lambda: quantizer.encode(x, bits, key, payload),
        "add": lambda: sums.add(payload, bits, 3, 1.0),
        "finish": lambda: sums.finish(y),
    }
    plain = plain_torch(name, bits, x) if with_torch else None
    if plain:
        works["torch_encode"], works["torch_add"] = plain
    return {"quantizer": name, "bits": bits, "d": d} | gigabytes(d, seconds(works))


def hadamard_row(x: F32, y: F32) -> dict[str, Any]:
    """Speed of the rotation alone, in place."""
    lanes = np.empty(16, np.float32)
    took = seconds({"copy": lambda: np.copyto(y, x), "encode": lambda: rotate(y, 4096, np.uint64(1), 0, False, lanes)})
    return {"quantizer": "(4096-block Hadamard)", "bits": 32, "d": len(x)} | gigabytes(len(x), took)


def gigabytes(d: int, took: dict[str, float]) -> dict[str, float]:
    """Speeds in GB/s of float32."""
    return {what: round(4e-9 * d / time, 2) for what, time in took.items()}


def rows(sizes: list[int], bits_wanted: list[int], torch_up_to: int) -> list[dict[str, Any]]:
    found = []
    for d in sizes:
        x = np.random.default_rng(0).standard_normal(d, dtype=np.float32)
        y = np.zeros_like(x)
        for name in quantizer_names():
            allowed = bits_allowed(get_quantizer(name))
            chosen = [bits for bits in bits_wanted if bits in allowed] or allowed[:1]
            found += [one_row(name, bits, x, y, with_torch=d <= torch_up_to) for bits in chosen]
        found.append(hadamard_row(x, y))
    return found


def cold_start() -> dict[str, float]:
    """Seconds of a first and a second process with an empty kernel cache, for `dither` and for all quantizers."""
    result = {}
    for label, names in (("dither", ("dither",)), ("all", quantizer_names())):
        with tempfile.TemporaryDirectory() as folder:
            for turn in ("compiled", "cached"):
                environment = {**os.environ, "NUMBA_CACHE_DIR": folder}
                command = [sys.executable, "-c", COLD.format(names=names)]
                run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                imported, warmed = map(float, run.stdout.split())
                result[f"import_{label}_{turn}"], result[f"{label}_{turn}"] = round(imported, 2), round(warmed, 2)
    return result


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--sizes", nargs="+", type=float, default=[1e4, 1e5, 1e6, 1e7, 1e8], help="coordinates d")
    parser.add_argument("--bits", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--torch-up-to", type=float, default=1e6, help="largest d for the plain torch versions")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sizes = [max(round(size / 4096) * 4096, 4096) for size in arguments.sizes]
    result: dict[str, Any] = {
        "unit": "GB/s of float32 (4e-9 d / seconds), one thread, best of several",
        "processor": processor(),
        "cold_start_seconds": cold_start(),
        "rows": rows(sizes, arguments.bits, int(arguments.torch_up_to)),
    }
    if arguments.json:
        print(json.dumps(result, indent=1))
        return
    print(f"{result['processor']}; {result['unit']}\ncold start, seconds: {result['cold_start_seconds']}")
    head = ("quantizer", "bits", "d", "copy", "encode", "add", "finish", "torch_encode", "torch_add")
    print(f"{head[0]:22}" + "".join(f"{name:>13}" for name in head[1:]))
    for row in result["rows"]:
        print(f"{row['quantizer']:22}" + "".join(f"{row.get(name, ''):>13}" for name in head[1:]))


if __name__ == "__main__":
    main()
