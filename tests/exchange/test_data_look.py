"""Other data in another process are noticed when it joins, and equal data are not taken for others."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

import gcdist
from gcdist.exchange import data_look
from gcdist.exchange.data_look import Look, look
from gcdist.exchange.sample_sketch import sketch
from gcdist.exchange.setup import Setup
from gcdist.protocol import Hello, MasterMachine, Peer
from gcdist.protocol.codec import pack_hello, unpack_hello
from gcdist.protocol.master_io import Admit, Joined, Lost, Refuse
from gcdist.protocol.messages import RANDOM, SampleSketch, ValueSketch
from gcdist.transport import HELLO_BYTES
from tests.conftest import Start


def setup(dataset: Any, holds: Any = None, partitioner: Any = None, **data: Any) -> Setup:
    task = gcdist.Task(
        nn.Linear(1, 1), dataset, lambda model, batch: model(batch).mean(), holds=holds, partitioner=partitioner
    )
    return Setup.of(task, gcdist.Config(data=data, code={"partitions": 4}), 2, own=False)


def hello(made: Setup, worker: int | None = None) -> Hello:
    made.looked[:] = look(made, worker).samples
    said = made.hello("any", worker)
    assert unpack_hello(pack_hello(said)) == said
    return said


class Pictures(Dataset[Any]):
    """Pictures with labels; ``noise`` of another decoder, ``draw`` from the generators, ``change`` of what is read."""

    def __init__(self, noise: float = 0.0, draw: Callable[[], float] = lambda: 0.0, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.pictures = rng.integers(0, 256, (40, 3, 16, 16)).astype(np.float32)
        self.labels = rng.integers(0, 10, 40)
        self.noise, self.draw = noise, draw

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> dict[str, Any]:
        wobble = np.random.default_rng(index).uniform(-self.noise, self.noise, (3, 16, 16))
        x = torch.from_numpy(self.pictures[index] + wobble.astype(np.float32)) + self.draw()
        return {"picture": x, "label": int(self.labels[index]), "name": f"/somewhere/{id(self)}/{index}.jpg"}


def test_equal_data_are_equal_with_augmentation_and_other_decoders() -> None:
    """Augmentation draws from the seeded generators; a decoder of another build is off by a few levels of 256."""

    def draw() -> float:
        return random.random() + float(np.random.rand()) + float(torch.rand(()))  # noqa: NPY002

    master, worker = hello(setup(Pictures(draw=draw))), hello(setup(Pictures(noise=4.0, draw=draw)), 1)
    assert len(master.looked) == 8
    assert master.difference(worker) is None


def reordered() -> Pictures:
    made = Pictures()
    order = np.random.default_rng(1).permutation(40)
    made.pictures, made.labels = made.pictures[order], made.labels[order]
    return made


def relabelled() -> Pictures:
    made = Pictures()
    made.labels = (made.labels + 1) % 10
    return made


def scaled() -> Pictures:
    made = Pictures()
    made.pictures = made.pictures / np.float32(255)
    return made


@pytest.mark.parametrize(
    ("other", "where"),
    [(lambda: Pictures(seed=3), "value 0"), (reordered, "value 0"), (scaled, "value 0"), (relabelled, "value 1")],
)
def test_other_samples_another_order_and_other_labels_are_named(other: Callable[[], Pictures], where: str) -> None:
    said = hello(setup(Pictures())).difference(hello(setup(other()), 0))
    assert said is not None
    assert said.startswith("sample ")
    assert f"): {where} is " in said
    assert "the master has" in said


def test_a_random_split_without_a_seed_is_noticed() -> None:
    """`unseeded-split`."""
    numbers = torch.arange(60.0)[:, None]
    splits = [torch.utils.data.random_split(TensorDataset(numbers), [48, 12])[0] for _ in range(2)]
    said = hello(setup(splits[0])).difference(hello(setup(splits[1]), 0))
    assert said is not None
    assert "of the data set (partition" in said


def test_another_cut_of_equal_data_is_noticed() -> None:
    def cut(*starts: int) -> Callable[[Any, int], list[Any]]:
        return lambda dataset, k: np.split(np.arange(40), starts)

    data = TensorDataset(torch.zeros(40))
    same, other = (hello(setup(data, partitioner=cut(*starts))) for starts in ((10, 20, 30), (10, 20, 31)))
    assert other.difference(same) == "cut of the data set: the same partition holds other samples than the master's"


def test_what_is_random_by_itself_is_not_compared_and_said() -> None:
    draws = [np.random.default_rng() for _ in range(2)]
    made = [setup(Pictures(draw=lambda rng=rng: 50 * float(rng.random()))) for rng in draws]  # type: ignore[misc]
    found = look(made[0])
    assert found.line is not None
    assert "another one each time it is read, also with equal seeds" in found.line
    assert {sample.values[0].kind for sample in found.samples} == {RANDOM}
    assert hello(made[0]).difference(hello(made[1], 0)) is None
    other = relabelled()
    other.draw = made[0].task.dataset.draw
    assert "value 1 is" in str(hello(made[0]).difference(hello(setup(other), 0)))  # labels are still compared


def test_a_data_set_is_left_as_it_was() -> None:
    """A file that is opened at the first reading must not be open here when a loader process is forked."""

    class Lazy(Pictures):
        opened = 0

        def __getitem__(self, index: int) -> Any:
            self.opened += 1
            return super().__getitem__(index)

    made = setup(Lazy())
    state = torch.get_rng_state()
    assert len(look(made).samples) == 8
    assert made.task.dataset.opened == 0
    assert torch.equal(torch.get_rng_state(), state)


def test_slow_and_broken_data_sets_do_not_hold_up_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_look, "LOOK_SECONDS", 0.5)

    class Slow(Pictures):
        def __getitem__(self, index: int) -> Any:
            time.sleep(0.0 if index < 20 else 3600.0)
            return super().__getitem__(index)

    found = look(setup(Slow()))
    assert len(found.samples) < 8
    assert "of 8 samples are compared between the processes (data.compare): reading 8 of them takes" in str(found.line)

    class Broken(Pictures):
        def __getitem__(self, index: int) -> Any:
            raise OSError("no such\nfolder")

    found = look(setup(Broken()))
    assert found.samples == ()
    assert str(found.line).endswith("gave OSError: no such folder")
    assert look(setup(Pictures(), compare=0)) == Look((), None)
    with monkeypatch.context() as patch:  # of a process that may not start another one
        patch.setattr("multiprocessing.current_process", lambda: SimpleNamespace(daemon=True))
        found = look(setup(Pictures()))
    assert found.samples == ()
    assert str(found.line).startswith(
        "0 of 8 samples are compared between the processes (data.compare): a daemonic process"
    )
    settings = gcdist.Config(data={"holds": ((0, 1), (2, 3))}, code={"partitions": 4})
    made = Setup.of(setup(Pictures()).task, settings, 2, own=False)
    assert look(made) == Look((), None)  # nothing is said of the master
    assert {sample.partition for sample in look(made, 1).samples} == {2, 3}


def test_workers_that_hold_a_part_look_at_that_part() -> None:
    made = setup(Pictures(), holds=[1, 2])
    found = hello(made, 0).looked
    assert len(found) == 8
    assert {sample.partition for sample in found} == {1, 2}
    assert hello(setup(Pictures(), holds=[1, 2]), 1).looked == found
    assert {s.number for s in hello(setup(Pictures(), holds=[2]), 1).looked} & {s.number for s in found}


def test_data_that_the_master_has_not_are_compared_among_workers() -> None:
    master = hello(setup(Pictures(), holds=[0]))
    good, bad = hello(setup(Pictures(), holds=[2, 3]), 0), hello(setup(reordered(), holds=[2, 3]), 1)
    machine = MasterMachine(3, master)
    assert isinstance(machine.handle(Joined(0.0, Peer(0, 1), good))[0], Admit)
    [refused] = machine.handle(Joined(1.0, Peer(1, 2), bad))
    assert isinstance(refused, Refuse)
    assert "worker 2 differs in its sample " in refused.reason
    assert "worker 1 has" in refused.reason
    assert isinstance(machine.handle(Joined(2.0, Peer(2, 3), good))[0], Admit)
    for slot, inc in ((0, 1), (2, 3)):  # once those are gone, nothing speaks against it
        machine.handle(Lost(3.0, Peer(slot, inc), "gone"))
    assert isinstance(machine.handle(Joined(4.0, Peer(1, 4), bad))[0], Admit)


def test_a_hello_has_room_for_them() -> None:
    class Wide(Pictures):
        def __len__(self) -> int:
            return 10**6

        def __getitem__(self, index: int) -> Any:
            rng = np.random.default_rng(index)
            return [rng.standard_normal(100) for _ in range(30)]

    said = hello(setup(Wide(), compare=64))
    assert 1 <= len(said.looked) < 64
    assert len(pack_hello(said)) < HELLO_BYTES // 2


@pytest.mark.parametrize(
    "value",
    [
        None,
        object(),
        "text",
        b"bytes",
        True,
        1 + 2j,
        float("nan"),
        [],
        [1, 2, 3],
        list(range(1000)),
        np.array(["a", "b"]),
        np.zeros((0, 4)),
        np.array([np.inf, -np.inf, np.nan] * 9),
        torch.zeros(3, dtype=torch.bfloat16),
        torch.ones(2, 9).to_sparse(),
        torch.ones(20, dtype=torch.bool),
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
        (torch.rand(3, 8, 8), ({"a": 1}, [2.5])),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.filterwarnings("ignore:Sparse")
def test_any_sample_has_a_sketch_that_travels(value: Any) -> None:
    made = sketch(value)
    sample = SampleSketch(3, 0, made)
    said = Hello("w", 1, "0", "f", 1, "c", looked=(sample,))
    assert unpack_hello(pack_hello(said)) == said
    assert sample.difference(SampleSketch(3, 0, sketch(value)), "the master has") is None


def test_two_samples_of_noise_look_different_and_one_with_some_noise_does_not() -> None:
    """Of 780 pairs: what is told apart, and what is taken for equal, at the sizes of common pictures."""
    rng = np.random.default_rng(0)
    for shape in ((28, 28), (3, 64, 64)):
        samples = [rng.standard_normal(shape) for _ in range(40)]
        made = [SampleSketch(0, 0, sketch(each)) for each in samples]
        pairs = list(itertools.combinations(made, 2))
        assert sum(a.difference(b, "") is not None for a, b in pairs) > 0.99 * len(pairs)
        again = [SampleSketch(0, 0, sketch(each + 0.03 * rng.standard_normal(shape))) for each in samples]
        assert all(a.difference(b, "") is None for a, b in zip(made, again, strict=True))


SCRIPT = """
import sys, torch, gcdist
from torch import nn
from torch.utils.data import TensorDataset, random_split
numbers = torch.arange(60.0)[:, None]
seed = {"equal": 1, "other": None}[sys.argv[1]]
generator = torch.Generator().manual_seed(1) if seed else torch.Generator()
if not seed:
    generator.seed()
train, _ = random_split(TensorDataset(numbers, numbers), [48, 12], generator)
model = nn.Linear(1, 1)
loss = lambda m, batch: 1e-4 * nn.functional.mse_loss(m(batch[0]), batch[1])
config = gcdist.Config(cluster={"min_workers": 2, "join_timeout": 5.0})
with gcdist.connect(gcdist.Task(model, train, loss, 4), config, folder="run") as cluster:
    for step in cluster.steps(3):
        step.backward()
"""


def test_a_peer_s_words_are_only_words() -> None:
    mine = SampleSketch(0, 0, (ValueSketch("int ()", (1.0,)),))
    for kind in ("{0.__class__} {}", "int ()"):
        theirs = SampleSketch(0, 0, (ValueSketch(kind, (float("nan"),)),))
        assert mine.difference(theirs, "the master has") in (
            None,
            f"sample 0 of the data set (partition 0): value 0 is {kind}, the master has int ()",
        )


@pytest.mark.parametrize("kind", ["equal", "other"])
def test_processes_with_a_split_of_their_own_are_refused(tmp_path: Path, start: Start, kind: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    cluster = start([str(script), kind], ranks=3)
    codes = cluster.wait(120.0)
    if kind == "equal":
        assert codes == [0, 0, 0], cluster.output(0)
        return
    assert codes[0] != 0
    assert codes[1:] == [2, 2]
    for rank in (1, 2):
        assert f"worker {rank} differs in its sample" in cluster.output(rank)
        assert f"worker {rank} differs in its sample" in cluster.output(0)
