"""Fewer samples than the default number of partitions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import gcdist
from gcdist.config import Config, ConfigError, fewer_partitions


@pytest.mark.parametrize(
    ("workers", "samples", "given", "wanted"),
    [
        (3, None, None, 6),
        (3, 100, None, 6),
        (3, 6, None, 6),
        (3, 5, None, 5),
        (3, 1, None, 1),
        (3, 5, 4, 4),
        (3, 5, 5, 5),
    ],
)
def test_the_default_number_of_partitions(workers: int, samples: int | None, given: int | None, wanted: int) -> None:
    config = Config(code={"partitions": given})
    assert config.resolved(workers, samples).code.partitions == wanted
    said = fewer_partitions(config, workers, 100 if samples is None else samples)
    assert bool(said) == (given is None and wanted < 2 * workers)


def test_more_partitions_than_samples_by_choice_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^code\.partitions: found 6; the data set has 5 samples: should be 1 to 5$"):
        Config(code={"partitions": 6}).resolved(3, 5)


def mean_square(model: nn.Module, batch: list[torch.Tensor]) -> torch.Tensor:
    return nn.functional.mse_loss(model(batch[0]), batch[1])


@pytest.mark.parametrize("samples", [5, 2, 1])
def test_a_small_data_set_trains_and_a_line_says_with_what(tmp_path: Path, samples: int) -> None:
    data = TensorDataset(torch.randn(samples, 4), torch.randn(samples, 1))
    task = gcdist.Task(nn.Linear(4, 1), data, mean_square, 8)
    lines: list[tuple[str, str]] = []
    config = gcdist.Config(out=tmp_path, cluster={"workers": 3})
    with gcdist.simulate(task, config, say=lambda kind, text: lines.append((kind, text))) as cluster:
        cluster.track(optimizer=torch.optim.SGD(task.model.parameters(), 0.1))
        losses = [step.backward().loss for step in cluster.steps(2)]
        assert cluster.config.code.partitions == samples
    assert None not in losses
    line = f"code.partitions: {samples}, one for each sample of the data set; the default is 6, twice the workers"
    assert lines.count(("settings", line)) == 1
