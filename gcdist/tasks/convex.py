"""Convex problems with an optimum known to the last digit: least squares, logistic regression, quadratics.

The data lies in contiguous blocks. With ``differ`` above 0 each block has its own optimum and its own features or
curvature, so that contiguous partitions disagree: at the optimum of the whole, only the sum of their gradients is zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from scipy.linalg import lstsq, solve
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor, nn
from torch.nn import functional

from gcdist.tasks.task import LossFn, Task
from gcdist.types import F32, F64, I64

POLISH = 5  # Newton steps after the minimiser, which stops at the last digit of the loss, not of x


class Problem(Protocol):
    """The data set of a convex task, with its optimum."""

    optimum: F64  # (d,)

    def excess(self, x: F64) -> float:
        """f(x) - f(optimum) over all samples, for x (d,)."""
        ...


class Vector(nn.Module):
    """One vector of parameters ``x`` (d,), zero at the start; of features (n, d) it makes scores (n,)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.zeros(dim))

    def forward(self, features: Tensor) -> Tensor:
        """``features @ x``."""
        return features @ self.x


class Rows:
    """Features A (N, d) and targets y (N,), float32: a data set whose samples are fetched as one batch (A_i, y_i)."""

    def __init__(self, features: F32, targets: F32) -> None:
        self.features_ND, self.targets_N = torch.from_numpy(features), torch.from_numpy(targets)
        self._features, self._targets = features.astype(np.float64), targets.astype(np.float64)

    def __len__(self) -> int:
        return len(self.targets_N)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.features_ND[index], self.targets_N[index]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        return self.features_ND[indices], self.targets_N[indices]


class LeastSquares(Rows):
    """f(x) = 1/(2N) |A x - y|^2; the optimum solves the normal equations, and f - f* is a quadratic form around it."""

    def __init__(self, features: F32, targets: F32) -> None:
        super().__init__(features, targets)
        self.optimum: F64 = lstsq(self._features, self._targets)[0]
        self.hessian_DD: F64 = self._features.T @ self._features / len(targets)

    def excess(self, x: F64) -> float:
        """See `Problem`; no digits are lost near the optimum."""
        off = x - self.optimum
        return float(off @ self.hessian_DD @ off) / 2

    @staticmethod
    def loss(model: nn.Module, batch: Any) -> Tensor:
        """Half the mean square of the residuals."""
        features, targets = batch
        return functional.mse_loss(model(features), targets) / 2


class Logistic(Rows):
    """f(x) = mean log(1 + exp(-y a x)) + l2/2 |x|^2 with labels y of -1 and 1; the optimum is found in float64."""

    def __init__(self, features: F32, targets: F32, l2: float) -> None:
        super().__init__(features, targets)
        self.l2 = l2
        start = np.zeros(features.shape[1])
        x: F64 = minimize(self.value, start, jac=self.gradient, hess=self.hessian, method="trust-exact").x
        for _ in range(POLISH):
            x = x - solve(self.hessian(x), self.gradient(x), assume_a="pos")
        self.optimum = x
        self.least = self.value(x)

    def value(self, x: F64) -> float:
        """f(x)."""
        margins_N = self._targets * (self._features @ x)
        return float(np.logaddexp(0, -margins_N).mean() + self.l2 / 2 * (x @ x))

    def gradient(self, x: F64) -> F64:
        """Of f at x, (d,)."""
        pull_N = self._targets * expit(-self._targets * (self._features @ x))
        found: F64 = self.l2 * x - pull_N @ self._features / len(pull_N)
        return found

    def hessian(self, x: F64) -> F64:
        """Of f at x, (d, d)."""
        chance_N = expit(self._features @ x)
        weighted_ND = (chance_N * (1 - chance_N))[:, None] * self._features
        found: F64 = self._features.T @ weighted_ND / len(chance_N) + self.l2 * np.eye(len(x))
        return found

    def excess(self, x: F64) -> float:
        """See `Problem`; exact to some 1e-16."""
        return self.value(x) - self.least

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The mean over the batch, with the whole penalty."""
        features, targets = batch
        x = model.get_parameter("x")
        return functional.soft_margin_loss(model(features), targets) + self.l2 / 2 * (x @ x)


class Quadratics:
    """f = mean of f_i(x) = 1/2 (x - c_i)^T H_i (x - c_i), H_i diagonal; a sample is its number, and no data is read.

    Args:
        centres: (N, d) c_i.
        curvatures: (N, d) the diagonals of H_i, above 0.
    """

    def __init__(self, centres: F32, curvatures: F32) -> None:
        self.centres_ND, self.curvatures_ND = torch.from_numpy(centres), torch.from_numpy(curvatures)
        pull_D: F64 = np.einsum("nd,nd->d", centres, curvatures, dtype=np.float64)
        sum_D: F64 = curvatures.sum(0, dtype=np.float64)
        self.optimum: F64 = pull_D / sum_D
        self.hessian_D: F64 = sum_D / len(centres)

    def __len__(self) -> int:
        return len(self.centres_ND)

    def __getitem__(self, index: int) -> int:
        return index

    def __getitems__(self, indices: list[int]) -> list[int]:
        return indices

    def excess(self, x: F64) -> float:
        """See `Problem`; no digits are lost near the optimum."""
        return float(self.hessian_D @ (x - self.optimum) ** 2) / 2

    def loss(self, model: nn.Module, batch: list[int]) -> Tensor:
        """The mean of the samples' f_i."""
        off_BD = model.get_parameter("x") - self.centres_ND[batch]
        return (self.curvatures_ND[batch] * off_BD.square()).sum() / (2 * len(batch))

    def many_gradients(self, model: nn.Module, samples_PB: I64) -> tuple[F32, F32]:
        """Losses (P,) of P batches of B samples, and gradients (P, d): the operations of `loss` and its backward pass."""
        where = torch.from_numpy(samples_PB.reshape(-1))
        count, size = samples_PB.shape
        x = model.get_parameter("x").detach()
        off_ND, curvatures_ND = x - self.centres_ND[where], self.curvatures_ND[where]
        losses_P = (curvatures_ND * off_ND.square()).reshape(count, -1).sum(1) / (2 * size)
        grads_ND = (torch.ones(()) / (2 * size) * curvatures_ND) * (2 * off_ND)
        grads_PD = grads_ND.reshape(count, size, -1).sum(1) if size > 1 else grads_ND
        return losses_P.numpy(), grads_PD.numpy()


def identity(batch: Any) -> Any:
    """Collate: the data sets here give whole batches."""
    return batch


@dataclass(frozen=True, slots=True)
class _Options:
    """The common options of all problems; see `least_squares`."""

    samples: int
    dim: int
    differ: float
    condition: float
    noise: float
    blocks: int
    seed: int

    def check(self, name: str) -> np.random.Generator:
        """The generator to draw from; ValueError."""
        for key in ("samples", "dim", "blocks"):
            if type(value := getattr(self, key)) is not int or value < 1:
                raise ValueError(f"{name}: {key} must be an integer >= 1, found {value!r}")
        for key, least in (("differ", 0), ("condition", 1), ("noise", 0)):
            if not (least <= (value := getattr(self, key)) < math.inf):
                raise ValueError(f"{name}: {key} must be a number >= {least}, found {value!r}")
        if self.samples < self.blocks:
            raise ValueError(f"{name}: blocks must be at most samples = {self.samples}, found {self.blocks}")
        return np.random.default_rng(self.seed)

    def eigenvalues_D(self) -> F64:
        """From 1 to 1/condition, evenly in their logarithm."""
        return self.condition ** -np.linspace(0.0, 1.0, self.dim)

    def block_N(self) -> I64:
        """The block of each sample: contiguous, sizes differing by at most one."""
        return np.arange(self.samples) * self.blocks // self.samples

    def features_ND(self, name: str, rng: np.random.Generator) -> F64:
        """Features whose mean of squares A^T A / N has exactly these eigenvalues; each block around a mean of its own."""
        if self.samples < self.dim:
            raise ValueError(f"{name}: samples must be at least dim = {self.dim}, found {self.samples}")
        means = self.differ * rng.standard_normal((self.blocks, self.dim))
        raw_ND = rng.standard_normal((self.samples, self.dim)) + means[self.block_N()]
        left_ND = np.linalg.qr(raw_ND)[0] * math.sqrt(self.samples)
        turn_DD = np.linalg.qr(rng.standard_normal((self.dim, self.dim)))[0]
        found: F64 = left_ND * np.sqrt(self.eigenvalues_D()) @ turn_DD
        return found

    def centres_ND(self, rng: np.random.Generator) -> F64:
        """The optimum of each sample's block: one common vector plus ``differ`` times the block's own."""
        common_D = rng.standard_normal(self.dim)
        own = rng.standard_normal((self.blocks, self.dim))
        return common_D + self.differ * own[self.block_N()]


def least_squares(
    batch_size: int = 16,
    samples: int = 2048,
    dim: int = 50,
    differ: float = 1.0,
    condition: float = 10.0,
    noise: float = 0.1,
    blocks: int = 16,
    seed: int = 0,
) -> Task:
    """Least squares: f(x) = 1/(2N) |A x - y|^2 with y = A_i w_block(i) + noise.

    ``evaluate`` gives ``excess_loss`` = f(x) - f* over all samples and ``distance`` = |x - x*|, both in float64.

    Args:
        batch_size: samples of one partition in one step; all of them: the exact gradient.
        samples: N.
        dim: d; x is zero at the start.
        differ: 0: the blocks are alike; 1: the differences between their optima and between their features' means are as
            long as the common part.
        condition: of the Hessian, whose largest eigenvalue is 1.
        noise: standard deviation of the targets around A_i w.
        blocks: contiguous parts of the data that differ.
        seed: of all data.

    Raises:
        ValueError: an option out of range.

    >>> task = least_squares(samples=256, dim=4)
    >>> {name: round(value, 3) for name, value in task.evaluate(task.model).items()}
    {'excess_loss': 1.734, 'distance': 2.183}
    """
    options = _Options(samples, dim, differ, condition, noise, blocks, seed)
    rng = options.check("least-squares")
    features_ND = options.features_ND("least-squares", rng)
    targets_N = (features_ND * options.centres_ND(rng)).sum(1) + noise * rng.standard_normal(samples)
    problem = LeastSquares(features_ND.astype(np.float32), targets_N.astype(np.float32))
    return _task(problem, problem.loss, batch_size)


def logistic(
    batch_size: int = 16,
    samples: int = 2048,
    dim: int = 50,
    differ: float = 1.0,
    condition: float = 10.0,
    noise: float = 0.05,
    blocks: int = 16,
    seed: int = 0,
    l2: float = 0.01,
) -> Task:
    """Logistic regression: f(x) = mean log(1 + exp(-y_i A_i x)) + l2/2 |x|^2, labels drawn by the logit A_i w_block(i).

    Options and ``evaluate`` as in `least_squares`, but: ``condition`` is that of the features' mean of squares,
    ``noise`` the probability of a flipped label, and ``l2`` > 0 makes the optimum unique.

    >>> task = logistic(samples=256, dim=4)
    >>> task.evaluate(task.model).keys()
    dict_keys(['excess_loss', 'distance'])
    """
    options = _Options(samples, dim, differ, condition, noise, blocks, seed)
    rng = options.check("logistic")
    if not 0 < l2 < math.inf:
        raise ValueError(f"logistic: l2 must be a number above 0, found {l2!r}")
    if noise > 1:
        raise ValueError(f"logistic: noise must be a chance from 0 to 1, found {noise!r}")
    features_ND = options.features_ND("logistic", rng)
    chance_N = expit((features_ND * options.centres_ND(rng)).sum(1))
    true_N = rng.random(samples) < chance_N
    labels_N = np.where(true_N ^ (rng.random(samples) < noise), 1.0, -1.0)
    problem = Logistic(features_ND.astype(np.float32), labels_N.astype(np.float32), float(l2))
    return _task(problem, problem.loss, batch_size)


def quadratic(
    batch_size: int = 16,
    samples: int = 1024,
    dim: int = 50,
    differ: float = 1.0,
    condition: float = 10.0,
    noise: float = 0.0,
    blocks: int = 16,
    seed: int = 0,
) -> Task:
    """Quadratics: f = mean of f_i(x) = 1/2 (x - c_i)^T H_i (x - c_i), cheap enough for 10,000 partitions.

    Options and ``evaluate`` as in `least_squares`, but: ``noise`` is the standard deviation of the centres c_i within a
    block, and blocks that differ have curvatures H_i of their own (diagonal, within a factor of 3 at ``differ`` = 1).

    >>> task = quadratic(samples=8, dim=4, blocks=8)
    >>> task.model.x.data.copy_(torch.from_numpy(task.dataset.optimum)) is task.model.x
    False
    >>> task.evaluate(task.model)["excess_loss"] < 1e-12
    True
    """
    options = _Options(samples, dim, differ, condition, noise, blocks, seed)
    rng = options.check("quadratic")
    centres_ND = options.centres_ND(rng) + noise * rng.standard_normal((samples, dim))
    factor_ND = 3.0 ** (min(differ, 1.0) * rng.uniform(-0.5, 0.5, (blocks, dim)))[options.block_N()]
    curvatures_ND = options.eigenvalues_D() * factor_ND / factor_ND.mean(0)
    problem = Quadratics(centres_ND.astype(np.float32), curvatures_ND.astype(np.float32))
    return _task(problem, problem.loss, batch_size)


def _task(problem: Problem, loss: LossFn, batch_size: int) -> Task:
    def evaluate(model: nn.Module) -> dict[str, float]:
        x: F64 = model.get_parameter("x").detach().cpu().numpy().astype(np.float64)
        return {"excess_loss": problem.excess(x), "distance": float(np.linalg.norm(x - problem.optimum))}

    return Task(Vector(len(problem.optimum)), problem, loss, batch_size, collate_fn=identity, evaluate=evaluate)
