"""How far one master goes: its port and its processor by number of workers and size of the model.

    python benchmarks/one_master.py [--json FILE] [--plot FILE]

First the master's processor seconds for one message, of 4 bits a coordinate, are measured: the driver's whole way from the
event to the sum, without the links' own threads. Then steps that wait for all are simulated with a port of 10 Gbit/s and
this processor, beside the sum of bytes on paper. The simulated model is `SHRUNK` times smaller than the real one, and
port and processor so many times slower for each byte.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import gcdist
from gcdist.protocol.master_io import Arrived, MasterEvent
from gcdist.tasks import convex

PORT = 1.25e9  # bytes a second: 10 Gbit/s
REAL_D, SHRUNK = 10_000_000, 1000
BITS = 4
WORKERS = (8, 16, 32, 64, 128, 256, 512)


def run(n: int, d: int, steps: int, downlink: str, **simulate: Any) -> tuple[float, list[float], int, int]:
    """Median seconds of a step, wall seconds of each message at the master, and bytes up and down of a step."""
    config = gcdist.Config(
        steps=steps,
        code={"scheme": "sync", "partitions": n},
        quantizer={"bits": BITS, "downlink": downlink},
        cluster={"workers": n},
        checkpoint={"keep": 0},
        simulate={"compute_seconds": 0.0, "latency": 0.0005, "bandwidth": PORT, **simulate},
    )
    task = convex.quadratic(batch_size=1, samples=n, dim=d, blocks=n)
    taken: list[float] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        gcdist.simulate(task, config, folder=Path(folder, "run"), say=lambda kind, text: None) as cluster,
    ):
        feed = cluster.driver._feed

        def timed(event: MasterEvent) -> None:
            began = time.perf_counter()
            feed(event)
            if isinstance(event, Arrived):
                taken.append(time.perf_counter() - began)

        type(cluster.driver)._feed = lambda self, event: timed(event)  # type: ignore[method-assign]
        try:
            optimizer = torch.optim.SGD(task.model.parameters(), 0.1)
            infos = []
            for step in cluster.steps(steps):
                infos.append(step.backward())
                optimizer.step()
        finally:
            type(cluster.driver)._feed = feed.__func__  # type: ignore[attr-defined, method-assign]
    last = infos[-1]
    return statistics.median(info.step_seconds for info in infos[2:]), taken[n:], last.bytes_up, last.bytes_down


def constants() -> dict[str, float]:
    """Seconds of the master's processor for a message, and for each byte of it."""
    small, large = 1000, 1_000_000
    a, b = (statistics.median(run(8, d, 6, "float32", pack_messages=True)[1]) for d in (small, large))
    byte = (b - a) / (BITS / 8 * (large - small))
    return {"message seconds": a, "byte seconds": byte, "coordinates": [small, large], "measured": [a, b]}  # type: ignore[dict-item]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--plot", type=Path, help="draw the picture there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = constants()
    message, byte = found["message seconds"], found["byte seconds"]
    print(f"a message takes the master {message * 1e6:.0f} us and {byte * 1e9:.2f} ns a byte")
    print(f"d = {REAL_D:.0e}, {BITS} bits up, port of {PORT:.3g} bytes/s: seconds of a step that waits for all")
    print(f"{'workers':>8} {'float32 down':>13} {'on paper':>9} {'4 bits down':>12} {'on paper':>9}")
    rows = []
    for n in WORKERS:
        row: dict[str, float] = {"workers": n}
        for downlink in ("float32", "differences"):
            seconds, _, up, down = run(
                n,
                REAL_D // SHRUNK,
                6,
                downlink,
                master_bandwidth=PORT / SHRUNK,
                master_message_seconds=message,
                master_byte_seconds=byte * SHRUNK,
            )
            row[downlink] = seconds
            # rounds leave one after another; the last message comes up and is taken in behind the last of them, unless the
            # processor is slower than the port
            each = up / n
            processor = n * message + up * byte * SHRUNK
            row[f"{downlink} paper"] = max(
                down * SHRUNK / PORT + each * SHRUNK / PORT + processor / n,
                down / n * SHRUNK / PORT + each * SHRUNK / PORT + processor,
            )
        rows.append(row)
        print(f"{n:>8} {row['float32']:>13.3f} {row['float32 paper']:>9.3f} {row['differences']:>12.3f} "
              f"{row['differences paper']:>9.3f}", flush=True)  # fmt: skip
    if options.json:
        options.json.write_text(
            json.dumps({"benchmark": "one master", "constants": found, "rows": rows}, indent=1) + "\n"
        )
    if options.plot:
        plot(rows, options.plot)


def plot(rows: list[dict[str, float]], path: Path) -> None:
    """Seconds of a step by number of workers."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 3.8), layout="constrained")
    n = [row["workers"] for row in rows]
    for name, label, colour in (("float32", "float32 down", "C0"), ("differences", "4 bits down", "C1")):
        axes.plot(n, [row[name] for row in rows], "o", color=colour, label=f"{label}, simulated")
        axes.plot(n, [row[f"{name} paper"] for row in rows], "-", color=colour, label=f"{label}, on paper")
    axes.set(xscale="log", yscale="log", xlabel="workers", ylabel="seconds of a step at the master")
    axes.set_title("One master, 10 million parameters, 10 Gbit/s")
    axes.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
