"""The demo on seven hosts: a master and six workers, one of them behind 10 Mbit/s, one unplugged for a while.

The hosts are network namespaces with addresses of their own; every process is started by its own static torchrun agent,
`launch/torchrun/agent.sh`, as on a cluster. Needs root, ip and tc, and gcdist and torchrun on PATH.

make cluster-demo
python benchmarks/cluster_demo.py --steps 150 --json
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TREE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TREE))

from tests.cluster.hosts import PORT, Hosts, why_not  # noqa: E402

WORKERS = 6
THIN, UNPLUGGED = 2, 5
RATE = "10mbit"
UNPLUG_AT, AWAY = 40, 8.0  # step, seconds
MEANS = "[0.03, 0.04, 0.05, 0.08, 0.2, 0.8]"


def steps_done(run: Path) -> int:
    """Lines of the run's metrics."""
    metrics = run / "metrics.jsonl"
    return metrics.read_bytes().count(b"\n") if metrics.exists() else 0


def demo(folder: Path, steps: int) -> dict[str, Any]:
    """Run it; the figures."""
    run = folder / "runs" / "demo"
    sets = (
        *("out=runs", "name=demo", f"steps={steps}", f"cluster.workers={WORKERS}", "code.partitions=12"),
        *(f"inject.mean={MEANS}", "summary.sync_check_steps=0"),
    )
    train = ["gcdist", "train", str(TREE / "examples" / "digits.toml"), *(w for s in sets for w in ("--set", s))]
    agent = str(TREE / "launch" / "torchrun" / "agent.sh")
    began = time.monotonic()
    with Hosts(WORKERS + 1, folder) as hosts:
        hosts.uplink(THIN, RATE)
        for rank in range(WORKERS + 1):
            hosts.run(rank, ["sh", agent, str(rank), str(WORKERS + 1), hosts.address(0), str(PORT), "--", *train])
        hosts.wait_until(lambda: steps_done(run) >= UNPLUG_AT, f"step {UNPLUG_AT}", 240.0)
        hosts.cut(UNPLUGGED)
        time.sleep(AWAY)  # the fault itself
        hosts.heal(UNPLUGGED)
        codes = {rank: process.wait(300.0) for rank, process in hosts.processes.items()}
        said = hosts.output(0)
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((run / "summary.json").read_text())
    there = [m["step"] for m in metrics if UNPLUGGED in m["arrived"]]
    away = [step for step in range(UNPLUG_AT, steps) if step not in there]
    back = min((step for step in there if step > UNPLUG_AT + 3), default=None)
    return {
        "accuracy": summary["metrics"]["test_accuracy"],
        "seconds": summary["wall_seconds"],
        "all_seconds": time.monotonic() - began,
        "exit_codes": codes,
        "longest_step": max(m["step_seconds"] for m in metrics[10:]),
        "arrivals": {a["rank"]: a["observed"] for a in summary["arrivals"]},
        "unplugged": {
            "worker": UNPLUGGED,
            "at_step": UNPLUG_AT,
            "seconds": AWAY,
            "steps_missed": len(away),
            "back_at": back,
        },
        "events": [
            json.loads(line)["text"]
            for line in (run / "events.jsonl").read_text().splitlines()
            if json.loads(line)["kind"] in ("members", "lost")
        ],
        "output": said,
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if (missing := why_not()) is not None:
        sys.exit(f"cluster_demo: {missing}")
    with tempfile.TemporaryDirectory(prefix="gcdist-cluster-demo-") as folder:
        found = demo(Path(folder), arguments.steps)
    said = found.pop("output")
    if arguments.json:
        print(json.dumps(found, indent=1))
        return
    print("\n".join(said.splitlines()[-30:]))
    gone = found["unplugged"]
    print(
        f"\nworker {THIN} sends at {RATE}, worker {gone['worker']} was unplugged at step {gone['at_step']} for {AWAY:g} s:"
    )
    print(f"it missed {gone['steps_missed']} steps in all and was back at step {gone['back_at']};")
    print(f"the longest step took {found['longest_step']:.2f} s; accuracy {found['accuracy']:.2%}")
    print(f"exit codes {found['exit_codes']}")
    for line in found["events"]:
        print(f"  {line}")


if __name__ == "__main__":
    main()
