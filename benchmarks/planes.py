"""Time of a step over TLS against the same over gloo: 8 workers, nobody slow, one run of each plane, blocks in turn.

Network, batch, optimizer and clocks are those of ``overhead.py``; both runs are alive all the time, and a ratio is that of
two neighbouring blocks of steps. ``cpu``: processor milliseconds a step of all nine processes.

python benchmarks/planes.py [--sizes 1e5 1e6 1e7] [--ways dither float32] [--blocks 7] [--seconds 2] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

TREE = Path(__file__).parents[1]
sys.path.append(str(TREE))  # for benchmarks.overhead; gcdist stays the installed one
from benchmarks.overhead import WARM_STEPS, WAYS, WORKERS, Group, gcdist_rank  # noqa: E402

PLANES = ("gloo", "tls")


def plane_rank(rank: int, port: int, plane: str, d: int, way: str, folder: str, orders: Connection) -> None:
    """`gcdist_rank` over a plane."""
    os.environ["GCDIST_SECRET"] = "of the benchmark alone"
    gcdist_rank(rank, port, d, way, folder, orders, plane)


def finish(group: Group) -> float:
    """End a run; processor milliseconds a step of its processes."""
    group.ends[0].send(0)
    told = group.ends[0].recv()["spent"]
    return float(sum(sum(terms.values()) for _, terms in (told, *(end.recv() for end in group.ends[1:]))))


def compare(d: int, way: str, blocks: int, budget: float) -> dict[str, Any]:
    with (
        tempfile.TemporaryDirectory() as folder,
        Group(plane_rank, WORKERS + 1, "gloo", d, way, str(Path(folder, "gloo"))) as gloo,
        Group(plane_rank, WORKERS + 1, "tls", d, way, str(Path(folder, "tls"))) as tls,
    ):
        for group in (gloo, tls):
            group.order(WARM_STEPS)
        steps = max(5, round(budget / max(gloo.order(5), tls.order(5))))
        pairs = [(gloo.order(steps), tls.order(steps)) for _ in range(blocks)]
        cpu = {plane: round(finish(group), 2) for plane, group in zip(PLANES, (gloo, tls), strict=True)}
    ratios = [over_tls / over_gloo for over_gloo, over_tls in pairs]
    return {
        "d": d,
        "way": way,
        "ratio": round(statistics.median(ratios), 3),
        "ratio_least": round(min(ratios), 3),
        "ratio_most": round(max(ratios), 3),
        "gloo_ms": round(1e3 * statistics.median(pair[0] for pair in pairs), 2),
        "tls_ms": round(1e3 * statistics.median(pair[1] for pair in pairs), 2),
        "cpu_ms": cpu,
        "steps_a_block": steps,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=float, default=[1e5, 1e6, 1e7], help="parameters, about")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=["dither", "float32"])
    parser.add_argument("--blocks", type=int, default=7, help="pairs of blocks (default: 7)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a block, about (default: 2)")
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    for d in options.sizes:
        for way in options.ways:
            row = compare(round(d), way, options.blocks, options.seconds)
            if options.json:
                print(json.dumps(row), flush=True)
                continue
            print(
                f"{row['d']:>9} {row['way']:17} {row['ratio']:>6} ({row['ratio_least']} to {row['ratio_most']})  gloo "
                f"{row['gloo_ms']} ms, tls {row['tls_ms']} ms; cpu gloo {row['cpu_ms']['gloo']} ms, tls "
                f"{row['cpu_ms']['tls']} ms",
                flush=True,
            )
    print(f"{WORKERS} workers, {len(os.sched_getaffinity(0))} cpus", file=sys.stderr)


if __name__ == "__main__":
    main()
