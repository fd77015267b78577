"""A code, a quantizer and a delay model that gcdist does not have: one small class and one registry line each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

import gcdist
from gcdist.coding import BaseCode, register_code
from gcdist.coding.blocks import usable_workers
from gcdist.coding.decoders import Summing, inverse_weights
from gcdist.coding.workers import equal_bits, finish, miss_at
from gcdist.quantize import register_quantizer
from gcdist.quantize.base import Direct
from gcdist.straggler import register_delays
from gcdist.types import F32, F64, U8, Decoder, Key, Plan, Problem, StepTerms, Weighting

WORKERS, STEPS = 3, 12


@dataclass(frozen=True, slots=True)
class Neighbours(BaseCode):
    """Partition j on ``copies`` workers from worker j on, around the ring; inverse weights."""

    copies: int = 2

    name: ClassVar[str] = "neighbours"
    unbiased: ClassVar[bool] = True
    weighting: ClassVar[Weighting] = Weighting.INVERSE

    def design(self, problem: Problem, plan_id: int) -> Plan:
        p_N = miss_at(problem, self.copies * problem.k / problem.n)
        here = usable_workers(problem, self.name)
        j = np.repeat(np.arange(problem.k), self.copies)
        owner = here[(j + np.tile(np.arange(self.copies), problem.k)) % len(here)]
        A_NK = csr_array((np.full(len(j), 1 / self.copies), (owner, j)), shape=(problem.n, problem.k))
        return finish(problem, plan_id, A_NK, equal_bits(problem, p_N < 1), p_N)

    def open(self, plan: Plan, terms: StepTerms) -> Decoder:
        return Summing(*inverse_weights(plan, terms))


class Bytes(Direct):
    """Stochastic rounding to 255 levels of the largest coordinate; a float32 scale behind the bytes."""

    name = "bytes"
    bits_allowed = (8,)

    def nbytes(self, d: int, bits: int) -> int:
        return d + 4

    def noise(self, bits: int, d: int) -> float:
        return 1e-3

    def bound(self, bits: int, d: int) -> float:
        return d / (4 * 127**2)

    def _encode(self, x: F32, bits: int, key: Key, out: U8) -> tuple[int, float, float]:
        bad = np.flatnonzero(~np.isfinite(x))
        if bad.size:
            return int(bad[0]), 0.0, 0.0
        scale = np.float32(max(float(np.abs(x).max(initial=0.0)) / 127, 1e-30))
        draw = np.random.default_rng([key.seed, key.step, key.row, key.segment]).random(len(x))
        level = np.clip(np.floor(x / scale + draw), -127, 127).astype(np.int8)
        out[:-4], out[-4:] = level.view(np.uint8), np.array([scale]).view(np.uint8)
        return -1, float(x @ x), float(np.square(level * scale - x).sum())

    def _check(self, payload: U8, d: int, bits: int) -> None:
        if not np.isfinite(payload[-4:].copy().view(np.float32)[0]):
            raise ValueError("corrupt payload: the scale is not finite")

    def add_to(self, out: F32, payload: U8, bits: int, key: Key, weight: float) -> None:
        out += np.float32(weight) * payload[-4:].copy().view(np.float32)[0] * payload[:-4].view(np.int8)


@dataclass(frozen=True, slots=True)
class Alternating:
    """Worker i needs ``seconds`` times i + 1 in odd steps."""

    seconds_each: float

    def seconds(self, worker: int, step: int, load: float, seed: int) -> float:
        return self.seconds_each * (worker + 1) * (step % 2)

    def survival(self, worker: int, load: F64, t: float) -> F64:
        return np.full(len(load), 0.5 if t < self.seconds_each * (worker + 1) else 0.0)


def alternating(workers: int, seconds: float = 0.01) -> Alternating:
    return Alternating(seconds)


def register() -> None:
    """The registry lines, in every process of a run."""
    register_code("neighbours", Neighbours)
    register_quantizer("bytes", Bytes)
    register_delays("alternating", alternating)


def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return functional.mse_loss(model(batch[0])[:, 0], batch[1])


def task() -> gcdist.Task:
    torch.manual_seed(5)
    x = torch.randn(64, 6)
    return gcdist.Task(nn.Linear(6, 1), TensorDataset(x, x.sum(1)), loss_of, batch_size=8)


def config(**more: object) -> gcdist.Config:
    return gcdist.Config(
        seed=3,
        code={"scheme": "neighbours", "partitions": 6, "options": {"copies": 2}},
        quantizer={"name": "bytes", "bits": 8, "downlink_bits": 8},
        inject={"model": "alternating", "options": {"seconds": 0.02}},
        straggler={"deadline": "wait"},
        **more,
    )


def train(cluster: gcdist.Cluster, model: nn.Module) -> list[float]:
    """Losses of the steps."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for step in cluster.steps(STEPS):
        info = step.backward()
        assert len(info.arrived) == WORKERS, info
        assert info.loss is not None
        losses.append(info.loss)
        optimizer.step()
    return losses
