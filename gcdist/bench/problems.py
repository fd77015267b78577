"""The benchmark's problems: task, metric and target, and the start of the search for a step size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from gcdist.config import ConfigError
from gcdist.tasks import Task, load_task
from gcdist.tasks.task import Evaluate

LOSS = "loss"  # the metric of the targets
EXACT = 1_000_000  # samples of a partition and step: more than any partition has


@dataclass(frozen=True, slots=True)
class Problem:
    """A task with its target.

    Args:
        name: as in file names.
        about: one line for readers.
        task: name of the task.
        options: of the task; the benchmark adds ``seed``.
        batch_size: samples of one partition in one step.
        target: of the metric ``loss``; a run ends below it.
        lr: the start of the search for a step size.
        every: steps between two evaluations of the loss.
        share: partitions of an even share.
        shares: other numbers of them that tuning may choose, ascending: the samples of a step; (): gradients are exact, or
            tuning would take too long.
        metric: the task's metric used as the loss; "": cross entropy over the whole training set.
    """

    name: str
    about: str
    task: str
    options: Mapping[str, Any]
    batch_size: int
    target: float
    lr: float
    every: int = 2
    metric: str = ""
    share: int = 8
    shares: tuple[int, ...] = ()

    def make(self, seed: int) -> Task:
        """The task with data, order and initial weights of that seed."""
        return load_task(self.task, {**self.options, "seed": seed}, self.batch_size, Path())

    def evaluate(self, task: Task) -> Evaluate:
        """Gives ``loss`` over the whole training set, and the task's own metrics."""
        if self.metric:
            return _renamed(task, self.metric)
        return _whole_training_set(task)


def _renamed(task: Task, metric: str) -> Evaluate:
    own = task.evaluate
    assert own is not None

    def evaluate(model: nn.Module) -> dict[str, float]:
        found = own(model)
        return {LOSS: found[metric], **found}

    return evaluate


def _whole_training_set(task: Task) -> Evaluate:
    inputs, labels = task.dataset.images, torch.tensor(task.dataset.labels)
    own = task.evaluate
    assert own is not None

    def evaluate(model: nn.Module) -> dict[str, float]:
        with torch.no_grad():
            loss = float(functional.cross_entropy(model(inputs), labels))
        return {LOSS: loss, **own(model)}

    return evaluate


PROBLEMS: dict[str, Problem] = {
    problem.name: problem
    for problem in (
        Problem(
            "digits",
            "1,438 handwritten digits, half sorted by label, a perceptron of 9,610 parameters, 16 samples a worker "
            "and step where they are not tuned",
            "digits",
            {"model": "mlp", "label_sorted": 0.5},
            2,
            target=0.1,
            lr=0.8,
            shares=(1, 2, 4, 8, 16, 32),
        ),
        Problem(
            "logistic",
            "logistic regression, 2,048 samples, 50 parameters, blocks with optima of their own; exact gradients, and the "
            "loss is that above the optimum",
            "logistic",
            {"samples": 2048, "dim": 50, "differ": 1.0, "condition": 30.0, "l2": 0.003},
            EXACT,
            target=1e-4,
            lr=4.0,
            metric="excess_loss",
        ),
        Problem(
            "least-squares",
            "least squares, 2,048 samples, 50 parameters, blocks with optima of their own; exact gradients, and the loss is "
            "that above the optimum",
            "least-squares",
            {"samples": 2048, "dim": 50, "differ": 1.0, "condition": 30.0},
            EXACT,
            target=1e-3,
            lr=1.0,
            metric="excess_loss",
        ),
        Problem(
            "detector",
            "a compact detector of 95,000 parameters on the COCO folder that $COCO_ROOT names, 4 images a worker and step; "
            "the loss is that of held-out images, and computing takes a pace of 0.3 s or more",
            "coco",
            {"root": "$COCO_ROOT", "eval_images": 66, "eval_ap": False},
            1,
            target=4.6,
            lr=0.08,
            every=5,
            metric="test_loss",
            share=4,
        ),
    )
}


def get_problem(name: str) -> Problem:
    """The problem of that name; ConfigError."""
    if name not in PROBLEMS:
        raise ConfigError(f"problem: found {name!r}; allowed: {', '.join(PROBLEMS)}")
    return PROBLEMS[name]
