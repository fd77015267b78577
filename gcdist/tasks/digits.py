"""The embedded task: UCI handwritten digits, 1,797 real 8x8 images (source and licence: ``data/README.md``)."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from gcdist.tasks.task import Task
from gcdist.types import F32, I64

PIXEL_MEAN, PIXEL_STD = np.float32(4.884), np.float32(6.017)  # over all pixels, 0 to 16


def arrays() -> tuple[F32, I64]:
    """All images, (1797, 1, 8, 8) float32 of mean 0 and variance 1, and labels, (1797,) int64, in the original order."""
    with (files("gcdist.tasks") / "data" / "digits.npz").open("rb") as file, np.load(file, allow_pickle=False) as data:
        images = (data["images"].astype(np.float32)[:, None] - PIXEL_MEAN) / PIXEL_STD
        return images, data["labels"].astype(np.int64)


class Digits(Dataset[tuple[Tensor, int]]):
    """Images (n, 1, 8, 8) and labels (n,) as a map-style data set of (image, label)."""

    def __init__(self, images: F32, labels: I64) -> None:
        self.images = torch.from_numpy(images)
        self.labels: list[int] = labels.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], self.labels[index]


def cnn() -> nn.Module:
    """Two convolutions and a linear layer: 14,810 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 48, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(768, 10),
    )


def mlp() -> nn.Module:
    """One hidden layer of 128: 9,610 parameters."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


MODELS = {"cnn": cnn, "mlp": mlp}


def mean_loss(model: nn.Module, batch: Any) -> Tensor:
    """Mean cross entropy of a batch (images, labels)."""
    images, labels = batch
    return functional.cross_entropy(model(images), labels)


def partly_sorted(labels: I64, fraction: float, rng: np.random.Generator) -> I64:
    """An order of the samples with a ``fraction`` of the places sorted by label and the others shuffled.

    The sorted places are spread evenly at random, so that a contiguous block holds about ``fraction`` of one or two
    labels and the rest of all labels: 0 makes the partitions alike, 1 gives each of ten its own digit.
    """
    order = rng.permutation(len(labels))
    places = np.sort(rng.permutation(len(labels))[: round(fraction * len(labels))])
    chosen = order[places]
    order[places] = chosen[np.argsort(labels[chosen], kind="stable")]
    return order


def build(
    batch_size: int = 16,
    model: str = "cnn",
    label_sorted: float = 0.5,
    train_fraction: float = 0.8,
    seed: int = 0,
) -> Task:
    """The digits task, with held-out ``test_accuracy`` and ``test_loss``.

    Args:
        batch_size: samples of one partition in one step.
        model: ``"cnn"`` or ``"mlp"``.
        label_sorted: fraction of the training samples that is sorted by label. Partitions are contiguous blocks, so
            sorting makes them differ, like data that stays where it was collected: `partly_sorted`.
        train_fraction: share of the samples to train on; the rest is the test set.
        seed: of the split, the order and the model's initial values. The global generators keep their state.

    Raises:
        ValueError: an unknown model, or a fraction out of range.

    >>> task = build()
    >>> len(task.dataset), sum(p.numel() for p in task.model.parameters())
    (1438, 14810)
    """
    if model not in MODELS:
        raise ValueError(f"digits: model must be one of {', '.join(MODELS)}, found {model!r}")
    if not 0 <= label_sorted <= 1:
        raise ValueError(f"digits: label_sorted must be between 0 and 1, found {label_sorted}")
    images, labels = arrays()
    cut = round(train_fraction * len(labels))
    if not 0 < cut < len(labels):
        raise ValueError(f"digits: train_fraction must leave samples to train and to test on, found {train_fraction}")
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(labels))
    train, test = shuffled[:cut], shuffled[cut:]
    train = train[partly_sorted(labels[train], label_sorted, rng)]
    test_images, test_labels = torch.from_numpy(images[test]), torch.from_numpy(labels[test])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = MODELS[model]()

    def evaluate(model: nn.Module) -> dict[str, float]:
        was_training = model.training
        model.eval()
        with torch.no_grad():
            scores = model(test_images)
            loss = functional.cross_entropy(scores, test_labels)
            accuracy = (scores.argmax(1) == test_labels).float().mean()
        model.train(was_training)
        return {"test_accuracy": float(accuracy), "test_loss": float(loss)}

    return Task(net, Digits(images[train], labels[train]), mean_loss, batch_size, evaluate=evaluate)
