"""The loader process gives the batches that reading here gives, in any order, and is never in the way."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gcdist.model.batches import Batches, ReadError
from gcdist.model.gradients import PartitionGradients, UserCodeError
from gcdist.model.loader import Loader
from gcdist.model.state import ModelState
from gcdist.tasks import Task

LIMIT = 60.0  # seconds


class Noisy:
    """Augmented with all three global generators; writes down what was read, if asked to."""

    def __init__(self, n: int = 40, log: Path | None = None) -> None:
        self.x = np.random.default_rng(0).standard_normal((n, 4)).astype(np.float32)
        self.log = log

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Tensor:
        if self.log is not None:
            with self.log.open("a") as out:
                out.write(f"{index}\n")
        noise = random.random() + np.random.rand() + torch.rand(4)  # noqa: NPY002
        return torch.from_numpy(self.x[index]) + noise


def square(model: nn.Module, batch: Any) -> Tensor:
    loss: Tensor = (model(batch) - batch).square().mean()
    return loss


def task_of(dataset: Any = None, collate_fn: Callable[[list[Any]], Any] | None = None) -> Task:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Linear(4, 4)
    return Task(model, Noisy() if dataset is None else dataset, square, batch_size=4, collate_fn=collate_fn)


@contextmanager
def loading(batches: Batches, ahead: int = 2, lines: list[str] | None = None) -> Iterator[Loader]:
    loader = Loader(batches, ahead, (lines if lines is not None else []).append)
    try:
        yield loader
    finally:
        loader.close()


def wait_until(true: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + LIMIT
    while not true():
        assert time.monotonic() < until, what
        time.sleep(0.01)


def gone(pid: int) -> bool:
    """No such process, or one that has ended and that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.parametrize("sampling", ["independent", "epochs"])
def test_gradients_are_bit_equal_with_and_without(sampling: Any) -> None:
    jobs = [(0, 0), (0, 2), (1, 0), (1, 2), (2, 0), (9, 0), (9, 2), (10, 0), (10, 1), (10, 2), (3, 3), (3, 3), (11, 2)]

    def run(ahead: int) -> list[tuple[float, bytes, bytes]]:
        gradients = PartitionGradients(task_of(), ModelState(task_of().model, own=True), 4, 5, sampling)
        results = []
        with loading(gradients.batches, max(1, ahead)) as loader:
            if ahead:
                gradients.source = loader
            for step, j in jobs:
                if j == 0:
                    loader.expect(step, (0, 2))
                made = gradients.compute(step, j)
                results.append((made.loss, made.gradient.tobytes(), bytes(made.samples)))
        return results

    expected = run(0)
    assert run(1) == expected
    assert run(3) == expected


@settings(derandomize=True, deadline=None, max_examples=15)
@given(
    ahead=st.integers(1, 4),
    rounds=st.lists(
        st.tuples(st.integers(0, 4), st.sampled_from([(0,), (1, 3), (3, 1, 0), (2, 2)]), st.integers(0, 4)),
        min_size=1,
        max_size=8,
    ),
)
def test_any_rounds_give_the_same_batches(ahead: int, rounds: list[tuple[int, tuple[int, ...], int]]) -> None:
    """Steps are jumped over, plans change, rounds are left half done: what comes is what was asked for."""
    inline = Batches(task_of(), 4, 1, "epochs")
    with loading(Batches(task_of(), 4, 1, "epochs"), ahead) as loader:
        step = 0
        for jump, partitions, done in rounds:
            step += jump
            loader.expect(step, partitions)
            for j in partitions[:done]:
                found, expected = loader.batch(step, j), inline.batch(step, j)
                assert found.indices.tolist() == expected.indices.tolist()
                assert torch.equal(found.batch, expected.batch)


def test_it_reads_ahead_and_no_more_than_it_should(tmp_path: Path) -> None:
    log = tmp_path / "read"
    with loading(Batches(task_of(Noisy(16, log)), 2, 0), 3) as loader:  # 2 partitions of 8, batches of 4
        loader.expect(0, (0, 1))
        loader.batch(0, 0)

        def read() -> int:
            return len(log.read_text().splitlines()) // 4

        wait_until(lambda: read() == 4, "one batch in hand and three ahead")
        # everything asked for is read: more would have been asked for by now
        assert len(loader._wanted) == loader._owed == 3
        assert list(loader._wanted) == [(0, 1), (1, 0), (1, 1)]
        # step 1 is jumped to: what was read for it is used
        loader.expect(1, (0, 1))
        loader.batch(1, 0)
        assert list(loader._wanted) == [(1, 1), (2, 0), (2, 1)]


class Gated(Noisy):
    """Reading the second half waits for a file."""

    def __init__(self, gate: Path, log: Path) -> None:
        super().__init__(16, log)
        self.gate = gate

    def __getitem__(self, index: int) -> Tensor:
        sample = super().__getitem__(index)
        until = time.monotonic() + LIMIT
        while index >= 8 and not self.gate.exists() and time.monotonic() < until:
            time.sleep(0.005)
        return sample


def test_batches_of_dropped_steps_are_not_read(tmp_path: Path) -> None:
    gate, log = tmp_path / "gate", tmp_path / "read"
    batches = Batches(task_of(Gated(gate, log)), 2, 0)
    with loading(batches, 4) as loader:
        loader.expect(0, (0, 1))
        loader.batch(0, 0)  # it goes on with (0, 1), and stays in its first sample
        assert list(loader._wanted) == [(0, 1), (1, 0), (1, 1), (2, 0)]
        wait_until(lambda: len(log.read_text().split()) == 5, "its first sample")
        loader.expect(50, (0, 1))
        jump = threading.Thread(target=loader.batch, args=(50, 0))
        jump.start()
        wait_until(lambda: loader._first.value == 5, "the jump")
        gate.touch()
        jump.join(LIMIT)
        read = [(0, 0), (0, 1), (50, 0), (50, 1), (51, 0), (51, 1), (52, 0)]
        wait_until(lambda: len(log.read_text().split()) >= 4 * len(read), "all that was asked for")
    expected = [index for step, j in read for index in batches.samples(step, j).tolist()]
    assert [int(index) for index in log.read_text().split()] == expected


class Failing(Noisy):
    def __getitem__(self, index: int) -> Tensor:
        if index == 17:
            raise OSError("unreadable image")
        return super().__getitem__(index)


def test_an_error_of_the_data_set_is_the_same_error() -> None:
    texts = []
    for ahead in (0, 2):
        gradients = PartitionGradients(task_of(Failing()), ModelState(task_of().model, own=True), 10, 0)
        with loading(gradients.batches, max(1, ahead)) as loader:
            if ahead:
                gradients.source = loader
            loader.expect(3, (3, 4))
            gradients.compute(3, 3)
            with pytest.raises(UserCodeError) as caught:
                gradients.compute(3, 4)
            gradients.compute(4, 3)  # and on it goes
        assert (caught.value.step, caught.value.partition) == (3, 4)
        assert caught.value.indices.tolist() == [16, 17, 18, 19]
        texts.append(caught.value.text)
    assert texts[0] == texts[1]
    assert texts[0].startswith("OSError: unreadable image (step 3, partition 4, sample 17)\nTraceback")
    assert "in __getitem__" in texts[0]


def test_a_batch_that_cannot_be_sent_is_a_clear_line() -> None:
    with loading(Batches(task_of(collate_fn=lambda samples: lambda: samples), 4, 0)) as loader:
        with pytest.raises(ReadError) as caught:
            loader.batch(0, 0)
        assert caught.value.text.startswith("a batch cannot leave the loader process (data.prefetch = 0 has none): ")
        assert "(step 0, partition 0, samples [" in caught.value.text


def as_bytes(samples: list[Tensor]) -> bytes:
    """A batch larger than a pipe holds, and not in shared memory."""
    return bytes(10**6) + torch.stack(samples).numpy().tobytes()


@pytest.mark.parametrize("collate_fn", [None, as_bytes])
def test_a_killed_loader_is_done_without(collate_fn: Any) -> None:
    lines: list[str] = []
    inline = Batches(task_of(collate_fn=collate_fn), 4, 0)
    with loading(Batches(task_of(collate_fn=collate_fn), 4, 0), 2, lines) as loader:
        loader.expect(0, (0, 1))
        loader.batch(0, 0)
        pid = loader.pid
        assert pid is not None
        wait_until(lambda: loader._pipe.poll(), "an answer, of which a large one is only half in the pipe")
        os.kill(pid, signal.SIGKILL)
        for step, j in [(0, 1), (1, 0), (1, 1), (2, 0)]:
            found, expected = loader.batch(step, j).batch, inline.batch(step, j).batch
            assert found == expected if isinstance(found, bytes) else torch.equal(found, expected)
        assert loader.pid is None
    assert lines == ["the loader process ended (SIGKILL): batches are read without it from now on (data.prefetch)"]


def test_a_closed_loader_is_gone() -> None:
    with loading(Batches(task_of(), 4, 0)) as loader:
        pid = loader.pid
        assert pid is not None
    assert gone(pid)
    loader.close()


SCRIPT = """
import sys, time, torch
from tests.model.test_loader import Gated, Path, task_of
from gcdist.model.batches import Batches
from gcdist.model.loader import Loader
folder = Path(sys.argv[1])
loader = Loader(Batches(task_of(Gated(folder / "gate", folder / "read")), 2, 0), 2, print)
loader.expect(0, (0, 1))
print(loader.pid, flush=True)
loader.batch(0, 0)
print("read", flush=True)
loader.batch(0, 1)
time.sleep(600)
"""


@pytest.mark.parametrize("busy", [False, True])
def test_it_ends_with_a_killed_worker(tmp_path: Path, busy: bool) -> None:
    if not busy:
        (tmp_path / "gate").touch()
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    worker = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=env)
    try:
        assert worker.stdout is not None
        pid = int(worker.stdout.readline())
        assert worker.stdout.readline() == "read\n"
        read = tmp_path / "read"
        # busy: it waits for its gate in the fifth sample; else all that was asked for is read, and it waits for requests
        wait_until(lambda: len(read.read_text().split()) == (5 if busy else 16), "what is asked for")
        assert not gone(pid)
    finally:
        worker.kill()
        worker.wait()
        assert worker.stdout is not None
        worker.stdout.close()
    (tmp_path / "gate").touch()
    wait_until(lambda: gone(pid), "the loader of a dead worker")
