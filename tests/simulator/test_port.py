"""The master's own port and processor, shared by all links."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import gcdist
from gcdist.tasks import convex

N, D = 8, 1000


def seconds(out: Path, **simulate: Any) -> tuple[float, int]:
    """Seconds of a step that waits for all, and bytes that went up in it."""
    config = gcdist.Config(
        steps=3,
        code={"scheme": "sync", "partitions": N},
        quantizer={"name": "float32", "bits": 32},
        cluster={"workers": N},
        checkpoint={"keep": 0},
        simulate={"compute_seconds": 0.0, "latency": 0.0, **simulate},
    )
    task = convex.quadratic(batch_size=1, samples=N, dim=D, blocks=N)
    with gcdist.simulate(task, config, folder=out, say=lambda kind, text: None) as cluster:
        infos = [step.backward() for step in cluster.steps(3)]
    return infos[-1].step_seconds, infos[-1].bytes_up


def test_the_port_carries_what_all_links_carry(tmp_path: Path) -> None:
    alone, up = seconds(tmp_path / "a")
    assert alone < 1e-4
    shared, _ = seconds(tmp_path / "b", master_bandwidth=1e6)
    # rounds go down one after another, messages come up meanwhile, as the port has both directions; the last one follows
    assert shared == pytest.approx((N + 1) / N * up / 1e6, rel=0.05)


def test_the_processor_takes_one_message_after_another(tmp_path: Path) -> None:
    taken, _ = seconds(tmp_path / "a", master_message_seconds=0.01)
    assert taken == pytest.approx(0.01 * N, rel=0.01)
    by_byte, _ = seconds(tmp_path / "b", master_byte_seconds=1e-6)
    assert by_byte == pytest.approx(1e-6 * N * 4 * D, rel=0.15)
