"""Seven hosts on one bridge: a slow uplink, a cable that is cut and healed, a host that is gone for good."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from tests.cluster.hosts import Hosts, why_not

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
WORKERS, STEPS, DEADLINE = 6, 140, 0.6
SLOW, CUT, GONE = 2, 3, 4
CONFIG = f"""
steps = {STEPS}
out = "runs"
name = "run"
[task]
name = "{Path(__file__).parent / "wide_task.py"}:build"
[code]
scheme = "osgc"
partitions = 12
[quantizer]
bits = 8
[inject]
model = "shifted-exponential"
shift = 0.2
mean = 0.02
[straggler]
deadline = {DEADLINE}
[cluster]
silent_after = 2.0
lost_after = 4.0
retry_most = 2.0
"""


@pytest.fixture(autouse=True)
def _namespaces() -> None:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)


def steps_done(run: Path) -> int:
    metrics = run / "metrics.jsonl"
    return metrics.read_bytes().count(b"\n") if metrics.exists() else 0


@pytest.mark.parametrize("transport", ["gloo", "tls"])
def test_a_slow_uplink_a_cut_cable_and_a_lost_host_do_not_stop_the_run(transport: str, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(f'{CONFIG}transport = "{transport}"\n')
    secret = {"GCDIST_SECRET": "the secret of this test alone"}
    run = tmp_path / "runs" / "run"
    with Hosts(WORKERS + 1, tmp_path) as hosts:
        hosts.uplink(SLOW, "10mbit")
        for rank in range(WORKERS + 1):
            hosts.start(rank, ["-m", "gcdist", "train", "config.toml"], WORKERS + 1, secret)
        hosts.wait_until(lambda: steps_done(run) >= 20, "step 20", 120.0)
        hosts.cut(CUT)
        time.sleep(6.0)  # the fault itself, not a wait for something
        hosts.heal(CUT)
        hosts.cut(GONE)
        hosts.processes[GONE].send_signal(signal.SIGKILL)  # behind the cut: nobody hears of it
        codes = {rank: hosts.processes[rank].wait(240.0) for rank in range(WORKERS + 1)}
        output = hosts.output(0)
    assert {rank: code for rank, code in codes.items() if rank != GONE} == dict.fromkeys({0, 1, SLOW, CUT, 5, 6}, 0), (
        output
    )
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [m["step"] for m in metrics] == list(range(STEPS))
    assert max(m["step_seconds"] for m in metrics[10:]) < DEADLINE + 2.0
    arrived = [set(m["arrived"]) for m in metrics]
    assert any(SLOW in ranks for ranks in arrived)
    away = [step for step in range(20, STEPS) if CUT not in arrived[step]]
    back = [step for step in range(20, STEPS) if CUT in arrived[step]]
    assert len(away) > 8  # six seconds are ten steps at least
    assert back
    assert max(back) > STEPS - 10
    assert not any(GONE in ranks for ranks in arrived[-40:])
    assert metrics[-1]["live"] == WORKERS - 1
    events = (run / "events.jsonl").read_text()
    assert f"worker {CUT} lost: nothing heard" in events
    assert f"worker {GONE} lost" in events
    assert f"worker {CUT} joined" in events.split(f"worker {CUT} lost")[1]
