"""Digits with a network of 0.5 million parameters: enough bytes for a slow uplink to matter."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

import gcdist
from gcdist.tasks import digits


def build(batch_size: int = 16) -> gcdist.Task:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 640), nn.ReLU(), nn.Linear(640, 640), nn.ReLU(), nn.Linear(640, 10)
    )
    return replace(digits.build(batch_size), model=model)
