"""Messages that are not packed, and gradients of many workers at once, change no bit of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import gcdist
from gcdist.tasks import load_task

CASES: dict[str, dict[str, Any]] = {
    "joint": {},
    "waits": {"code": {"scheme": "sync"}},
    "whole rows": {"code": {"partial": False}},
    "shifted": {"code": {"scheme": "shifted"}},
    "memory of partitions": {"code": {"scheme": "partial-memory"}},
    "automatic": {"code": {"scheme": "auto"}, "straggler": {"deadline": "auto"}},
    "differences down": {"quantizer": {"downlink": "differences"}},
    "eden": {"quantizer": {"name": "eden"}},
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
        settings[table] = {**settings.get(table, {}), **values}
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
    return [infos, weights, lines, (path / "workers.jsonl").read_text()]


@pytest.mark.parametrize("name", CASES)
def test_equal_to_the_last_bit(tmp_path: Path, name: str) -> None:
    assert told(tmp_path, CASES[name], packed=False) == told(tmp_path, CASES[name], packed=True)
