"""Four small models of kinds that people train, each with data, collate_fn and loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence
from torch.utils.data import TensorDataset

import gcdist


class ConvNet(nn.Sequential):
    """A CNN with BatchNorm."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(8 * 4 * 4, 5),
        )


def classify(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


def cnn(samples: int) -> gcdist.Task:
    data = TensorDataset(torch.randn(samples, 1, 8, 8), torch.randint(5, (samples,)))
    return gcdist.Task(ConvNet(), data, classify, batch_size=4)


class Tagger(nn.Module):
    """An LSTM over sequences of unequal length."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 8, num_layers=2, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        _, (hidden, _) = self.lstm(packed)
        out: Tensor = self.head(hidden[-1])
        return out


def pad(samples: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    return {
        "x": pad_sequence([x for x, _ in samples], batch_first=True),
        "lengths": torch.tensor([len(x) for x, _ in samples]),
        "label": torch.stack([label for _, label in samples]),
    }


def lstm(samples: int) -> gcdist.Task:
    data = [(torch.randn(3 + i % 6, 3) + 3 * (i % 4 - 1.5), torch.tensor(i % 4)) for i in range(samples)]
    return gcdist.Task(
        Tagger(),
        data,
        lambda model, batch: functional.cross_entropy(model(batch["x"], batch["lengths"]), batch["label"]),
        batch_size=4,
        collate_fn=pad,
    )


class Language(nn.Module):
    """A transformer that predicts the next token; embedding and output share their weights, the mask is a bool buffer."""

    def __init__(self, tokens: int = 11, width: int = 16, length: int = 8) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, width, _weight=0.3 * torch.randn(tokens, width))
        self.place = nn.Parameter(0.1 * torch.randn(length, width))
        layer = nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(width, tokens)
        self.out.weight = self.embedding.weight
        self.register_buffer("mask", torch.triu(torch.ones(length, length, dtype=torch.bool), 1), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.layers(self.embedding(tokens) + self.place, mask=self.get_buffer("mask"))
        out: Tensor = self.out(hidden)
        return out


def transformer(samples: int) -> gcdist.Task:
    tokens = (torch.arange(9)[None, :] * torch.randint(1, 5, (samples, 1)) + torch.randint(11, (samples, 1))) % 11
    return gcdist.Task(
        Language(),
        TensorDataset(tokens),
        lambda model, batch: functional.cross_entropy(model(batch[0][:, :-1]).flatten(0, 1), batch[0][:, 1:].flatten()),
        batch_size=4,
    )


class Detector(nn.Module):
    """GroupNorm features of images of unequal size; each cell says whether it holds a box, and which one."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.GroupNorm(2, 8),
            nn.SiLU(),
            nn.Conv2d(8, 8, 3, stride=2, padding=1),
            nn.GroupNorm(4, 8),
            nn.SiLU(),
        )
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        rows, columns = (max(image.shape[i] for image in images) for i in (1, 2))
        padded = torch.stack(
            [functional.pad(image, (0, columns - image.shape[2], 0, rows - image.shape[1])) for image in images]
        )
        out = self.head(self.features(padded))
        there = torch.zeros_like(out[:, 0])
        errors = []
        for i, target in enumerate(targets):
            for box, (row, column) in zip(target["boxes"], target["cells"].tolist(), strict=True):
                there[i, row, column] = 1
                errors.append(functional.smooth_l1_loss(out[i, 1:, row, column], box))
        return {
            "objectness": functional.binary_cross_entropy_with_logits(out[:, 0], there),
            "boxes": 0.5 * torch.stack(errors).mean(),
        }


def listed(samples: list[Any]) -> tuple[list[Any], list[Any]]:
    return [image for image, _ in samples], [target for _, target in samples]


def detector(samples: int) -> gcdist.Task:
    def target(boxes: int) -> dict[str, Tensor]:
        return {"boxes": torch.rand(boxes, 4), "cells": torch.randint(3, (boxes, 2))}

    data = [(torch.randn(3, 12 + 4 * (i % 2), 12 + 4 * (i % 3)), target(1 + i % 3)) for i in range(samples)]
    model = Detector()
    model.features[:2].requires_grad_(False)  # `unfreeze` ends that
    return gcdist.Task(model, data, lambda model, batch: model(*batch), batch_size=4, collate_fn=listed)


def unfreeze(model: nn.Module, step: int) -> None:
    """What the training scripts do before step 10: nothing stays frozen."""
    if step == 10:
        model.requires_grad_(True)


ZOO: dict[str, Callable[[int], gcdist.Task]] = {
    "cnn": cnn,
    "lstm": lstm,
    "transformer": transformer,
    "detector": detector,
}


def build(name: str) -> gcdist.Task:
    """The task of that name, the same in every process: 50 samples, in 5 partitions of 10."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return ZOO[name](50)
