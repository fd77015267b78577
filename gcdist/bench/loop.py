"""The training loop of a benchmark run, the same for real and for simulated workers."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from statistics import fmean, median

import torch

from gcdist.api import simulate
from gcdist.bench.cells import Cell, Outcome
from gcdist.bench.machine import Machine
from gcdist.bench.problems import Problem, get_problem
from gcdist.run.cluster import Cluster
from gcdist.tasks import Task
from gcdist.types import RunHaltedError


def train(cluster: Cluster, problem: Problem, task: Task, cell: Cell) -> Outcome:
    """Plain SGD until the target, the budget, or the end; seconds are the run's, without evaluations.

    The clock begins with the first step. It includes warm-up, planning and every wait, but not the start of processes.
    """
    outcome, arrived = Outcome(), 0
    cpu: list[float] = []
    choices: list[float] = []
    look = problem.evaluate(task)
    optimizer = torch.optim.SGD(task.model.parameters(), lr=cell.lr)
    outcome.look(0, 0.0, cluster.evaluate(look), cell.target, cell.budget)
    try:
        for step in cluster.steps(cluster.config.steps):
            info = step.backward()
            optimizer.step()
            outcome.ends.append(info.seconds)
            outcome.rounds.append(info.step_seconds)
            outcome.bytes_up += info.bytes_up
            outcome.bytes_down += info.bytes_down
            arrived += len(info.arrived)
            cpu += [] if info.cpu_seconds is None else [info.cpu_seconds]
            choices += [info.choice_seconds] if info.choice_seconds else []
            done = info.step + 1
            due = done % problem.every == 0 or info.seconds > cell.budget
            if due and outcome.look(done, info.seconds, cluster.evaluate(look), cell.target, cell.budget):
                break
    except RunHaltedError as error:
        # a step size that is too large gives gradients that are not finite, which halt a run
        outcome.status = "diverged" if "not finite" in str(error) or "loss is" in str(error) else "stopped"
        outcome.why = str(error).splitlines()[0]
    if outcome.ends:
        outcome.arrived = arrived / len(outcome.ends)
        outcome.cpu_seconds = fmean(cpu) if cpu else math.nan
        outcome.choice_seconds = median(choices) if choices else math.nan
    return outcome


def simulated(cell: Cell, machine: Machine | None = None) -> Outcome:
    """The cell on a virtual clock, in this process; ``machine`` None: the simulator's own constants."""
    torch.set_num_threads(1)
    problem = get_problem(cell.problem)
    task = problem.make(cell.seed)
    config = cell.config(machine.section(cell) if machine else None)
    with (
        tempfile.TemporaryDirectory(prefix="gcdist-bench-") as folder,
        simulate(task, config, folder=Path(folder, "run"), say=lambda kind, text: None) as cluster,
    ):
        return train(cluster, problem, task, cell)
