"""Reads some samples before the run begins, so that the master notices a worker with other data when it joins.

A forked process looks: a data set that opens its files when it is first read stays as it is here, and what takes too long or
never ends is broken off.
"""

from __future__ import annotations

import multiprocessing
import signal
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from time import monotonic
from typing import NamedTuple

import torch

from gcdist.exchange.sample_sketch import common, sketch
from gcdist.exchange.setup import Setup
from gcdist.model.batches import Batches
from gcdist.model.randomness import COMPARE, seed_generators
from gcdist.protocol.messages import RANDOM, SampleSketch

LOOK_SECONDS = 5.0  # for all samples together; those that were read by then are compared
HELLO_ROOM = 3000  # characters of a Hello for them


class Look(NamedTuple):
    """The sketches, and a line about samples that could not be read."""

    samples: tuple[SampleSketch, ...]
    line: str | None


def look(setup: Setup, worker: int | None = None) -> Look:
    """Read ``data.compare`` samples twice each, as the worker of that index or as the master.

    python's, numpy's and torch's generators are seeded before each reading by (seed, sample): augmentation that draws from
    them gives the same everywhere. What differs between the two readings is random by itself, and is not compared.
    """
    count, held = setup.config.data.compare, setup.task.holds if worker is None else setup.held_by(worker)
    if worker is None and setup.config.data.holds is not None:
        return Look((), None)  # the settings say what workers hold, and nothing of the master
    chosen = setup.gradients.batches.some(count, held)
    if not chosen:
        return Look((), None)
    if multiprocessing.current_process().daemon:
        return Look((), _line([], len(chosen), "a daemonic process may not start the one that reads them"))
    context = multiprocessing.get_context("fork")
    pipe, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_read, args=(theirs, setup.gradients.batches, chosen), daemon=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # python 3.12 warns of forks beside other threads
        process.start()
    theirs.close()
    found: list[SampleSketch] = []
    why = f"reading {len(chosen)} of them takes more than {LOOK_SECONDS:g} s"
    until = monotonic() + LOOK_SECONDS
    try:
        while len(found) < len(chosen) and pipe.poll(max(0.0, until - monotonic())):
            answer = pipe.recv()
            if isinstance(answer, str):
                why = answer
                break
            found.append(answer)
    except (EOFError, OSError):
        why = "the process that read them ended"
    finally:
        process.kill()
        process.join()
        pipe.close()
    return Look(_fitting(found), _line(found, len(chosen), why))


def _line(found: list[SampleSketch], asked: int, why: str) -> str | None:
    if len(found) < asked:
        return f"{len(found)} of {asked} samples are compared between the processes (data.compare): {why}"
    odd = next((sample for sample in found if RANDOM in (value.kind for value in sample.values)), None)
    if odd is None:
        return None
    return (
        f"sample {odd.number} of the data set is another one each time it is read, also with equal seeds: what changes is "
        "not compared between the processes (data.compare)"
    )


def _fitting(found: list[SampleSketch]) -> tuple[SampleSketch, ...]:
    """The first sketches, up to the room of a Hello."""
    room, fit = HELLO_ROOM, []
    for sample in found:
        room -= len(str(tuple(sample)))
        if room < 0:
            break
        fit.append(sample)
    return tuple(fit)


def _read(pipe: Connection, batches: Batches, chosen: list[tuple[int, int]]) -> None:
    """The forked process: sketches in order, or a line with the reason for none."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    dataset = batches.task.dataset
    many: Callable[[list[int]], list[object]] | None = getattr(dataset, "__getitems__", None)
    try:
        for index, partition in chosen:
            seen = []
            for _ in range(2):
                seed_generators(batches.seed, COMPARE, index, partition)
                seen.append(sketch(many([index])[0] if many else dataset[index]))
            pipe.send(SampleSketch(index, partition, common(*seen)))
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        pipe.send(f"reading sample {index} gave {type(error).__name__}{': ' if text else ''}{text}")
