"""The master's environment after connecting, and the number of a run's first step."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import gcdist
from gcdist.integrations.alone import leave_the_group

TOLD = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "OMPI_COMM_WORLD_SIZE")


def test_nothing_is_left_of_the_place_among_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*TOLD, "MINE"):
        monkeypatch.setenv(name, "7")
    leave_the_group()
    assert set(TOLD) & set(os.environ) == set()
    assert os.environ["MINE"] == "7"


def cluster_of(folder: Path) -> gcdist.Cluster:
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(32, 4), torch.randn(32, 1))
    task = gcdist.Task(nn.Linear(4, 1), data, lambda m, b: nn.functional.mse_loss(m(b[0]), b[1]), batch_size=2)
    config = gcdist.Config(
        cluster={"workers": 2}, checkpoint={"keep": 0}, code={"scheme": "sync"}, quantizer={"downlink": "float32"}
    )
    return gcdist.simulate(task, config, folder=folder, say=lambda kind, text: None)


def test_a_run_can_begin_at_a_step(tmp_path: Path) -> None:
    """The model stays as it is: the losses of steps 3 to 5 are those of a run that comes there from 0."""
    with cluster_of(tmp_path / "from-0") as cluster:
        expected = [step.backward().loss for step in cluster.steps(6)][3:]
    with cluster_of(tmp_path / "from-3") as cluster:
        cluster.begin_at(3)
        numbers, found = zip(*[(step.number, step.backward().loss) for step in cluster.steps(3)], strict=True)
    assert numbers == (3, 4, 5)
    assert list(found) == pytest.approx(expected, rel=1e-6)
    assert len((tmp_path / "from-3" / "metrics.jsonl").read_text().splitlines()) == 3


def test_a_step_cannot_be_chosen_later(tmp_path: Path) -> None:
    with cluster_of(tmp_path / "run") as cluster:
        with pytest.raises(ValueError, match="begin_at: found -1; should be 0 or more"):
            cluster.begin_at(-1)
        next(cluster.steps(1)).backward()
        with pytest.raises(ValueError, match="begin_at: the run is at step 1 already"):
            cluster.begin_at(5)
