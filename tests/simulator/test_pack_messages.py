"""Messages that are not packed, gradients of many workers at once, and rounds that are foreseen change no bit of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import gcdist
from gcdist.exchange.message import Message
from gcdist.tasks import load_task
from gcdist.worker.rows import RowMaker

CASES: dict[str, dict[str, Any]] = {
    "joint": {},
    "waits": {"code": {"scheme": "sync"}},
    "whole rows": {"code": {"partial": False}},
    "shifted": {"code": {"scheme": "shifted"}},
    "memory of partitions": {"code": {"scheme": "partial-memory"}},
    "automatic": {"code": {"scheme": "auto"}, "straggler": {"deadline": "auto"}},
    "differences down": {"quantizer": {"downlink": "differences"}},
    "eden": {"quantizer": {"name": "eden"}},
    "dither": {"quantizer": {"name": "dither", "bits": 3}},
    "rotated": {"quantizer": {"name": "rotated"}},
    "one norm": {"quantizer": {"name": "qsgd"}},
    "one bit": {"quantizer": {"bits": 1}},
    "no quantizer": {"quantizer": {"name": "float32"}},
    "longer than a block": {"task": {"options": {"samples": 60, "blocks": 12, "dim": 1100}}},
    "another seed": {"seed": 7, "straggler": {"deadline": 0.16}},
    "late": {"straggler": {"deadline": 0.13}},
    "late whole rows": {"straggler": {"deadline": 0.13}, "code": {"scheme": "shifted", "partial": False}},
    "delays spent computing": {"inject": {"where": "compute"}},
    "delays with the load": {"inject": {"scale_with_load": True, "shift": 0.03, "mean": 0.03}},
    "no delays": {"inject": {"model": "none", "shift": 0.0, "mean": 0.0}, "straggler": {"deadline": 0.02}},
    "several rows a worker": {"code": {"scheme": "sgc"}},
    "the master's port": {"simulate": {"master_bandwidth": 1e6, "master_message_seconds": 1e-4}},
    "the master is busy": {"simulate": {"master_seconds": 0.08}},
    "at rest now and then": {"checkpoint": {"every": 4, "keep": 1}, "straggler": {"deadline": 0.13}},
    "times": {"simulate": {"encode_seconds": 0.001, "send_seconds": 0.001, "master_seconds": 0.002, "bandwidth": 1e5}},
    "cores": {"simulate": {"cores": 2}},
}


def told(folder: Path, case: dict[str, Any], packed: bool) -> list[Any]:
    settings: dict[str, Any] = {
        "steps": 12,
        "task": {"name": "quadratic", "batch_size": 2, "options": {"samples": 60, "blocks": 12, "dim": 300}},
        "code": {"scheme": "joint", "partitions": 12},
        "straggler": {"deadline": 0.25, "warmup_steps": 2},
        "inject": {"model": "shifted-exponential", "shift": 0.1, "mean": 0.05},
        "cluster": {"workers": 6},
        "checkpoint": {"keep": 0},
        "simulate": {},
    }
    for table, values in case.items():
        settings[table] = {**settings.get(table, {}), **values} if isinstance(values, dict) else values
    settings["simulate"] = {**settings["simulate"], "pack_messages": packed}
    config = gcdist.Config(**settings)
    task = load_task("quadratic", dict(config.task.options), 2, Path())
    lines: list[str] = []
    path = folder / str(packed)
    with gcdist.simulate(task, config, folder=path, say=lambda kind, text: lines.append(text)) as cluster:
        optimizer = torch.optim.SGD(task.model.parameters(), 0.1)
        infos = []
        for step in cluster.steps(12):
            infos.append(step.backward())
            optimizer.step()
    weights = [parameter.tolist() for parameter in task.model.parameters()]
    told_lines = [line for line in lines if str(path) not in line]
    return [infos, weights, told_lines, (path / "workers.jsonl").read_text()]


def test_rows_are_made_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone, together = [0], [0]
    encode, ready = RowMaker.encode, RowMaker.ready_message

    def counted(self: RowMaker, *given: Any, **more: Any) -> Message:
        alone[0] += 1
        return encode(self, *given, **more)

    def counted_ready(self: RowMaker, step: int, row: int, done: list[float], seconds: float) -> Message | None:
        found = ready(self, step, row, done, seconds)
        together[0] += found is not None
        return found

    monkeypatch.setattr(RowMaker, "encode", counted)
    monkeypatch.setattr(RowMaker, "ready_message", counted_ready)
    told(tmp_path, CASES["joint"], packed=False)
    assert together[0] > 5 * alone[0]


@pytest.mark.parametrize("name", CASES)
def test_equal_to_the_last_bit(tmp_path: Path, name: str) -> None:
    assert told(tmp_path, CASES[name], packed=False) == told(tmp_path, CASES[name], packed=True)
