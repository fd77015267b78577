"""Disks that are full for real, folders that go away or are somebody else's, content that was changed: simulated runs."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import gcdist
from gcdist.observe import RunFolder, read_lines, read_metrics
from gcdist.run.checkpoint import DamagedError, read_checkpoint

EVERY: dict[str, Any] = {"checkpoint": {"every": 5}, "evaluation": {"every": 5}, "straggler": {"replan_every": 5}}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB of its own."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        pytest.skip("a disk of one's own needs root")
    done = subprocess.run([mount, "-t", "tmpfs", "-o", "size=2m", "tmpfs", path], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.decode(errors='replace').strip()}")
    yield path
    subprocess.run(["umount", "-l", path], check=True)


def run(folder: Path, at: Callable[[int], None] = lambda step: None, steps: int = 40, **more: Any) -> list[str]:
    """A run of so many steps; ``at(step)`` is called after each. Returns its lines."""
    torch.manual_seed(0)
    x = torch.randn(64, 4)
    model = nn.Linear(4, 1)
    data = TensorDataset(x, x.sum(1, keepdim=True))
    evaluate = lambda m: {"score": 1.0}  # noqa: E731
    task = gcdist.Task(model, data, lambda m, b: nn.functional.mse_loss(m(b[0]), b[1]), 8, evaluate=evaluate)
    lines: list[str] = []
    settings = gcdist.Config(cluster={"workers": 2}, **EVERY)
    say = lambda kind, text: lines.append(f"{kind}: {text}")  # noqa: E731
    with gcdist.simulate(task, settings, folder=folder, say=say, **more) as cluster:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        cluster.track(optimizer=optimizer)
        for step in cluster.steps(steps):
            step.backward()
            optimizer.step()
            at(step.number)
    return lines


def fill(path: Path) -> None:
    with (path / "filler").open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").glob("step-*"))


def test_a_full_disk_ends_no_run_and_is_whole_again(disk: Path) -> None:
    """Full at metrics, events, plans, evaluations and checkpoints, from step 7 to step 29."""
    folder = disk / "run"

    def at(step: int) -> None:
        if step == 7:
            fill(disk)
        if step == 29:
            (disk / "filler").unlink()

    lines = run(folder, at)
    assert [line["step"] for line in read_metrics(folder)] == list(range(40))  # what waited was written, in order
    assert [line["step"] for line in read_lines(folder / "evaluations.jsonl")] == list(range(5, 41, 5))
    assert list(read_lines(folder / "events.jsonl"))
    for plan in (folder / "plans").glob("*.json"):
        json.loads(plan.read_text())
    assert names(folder)[-1] == "step-00000040"
    assert read_checkpoint(folder / "checkpoints" / "step-00000040").step == 40
    assert json.loads((folder / "summary.json").read_text())["steps"] == 40
    assert sum("No space left on device" in line and "not written" in line for line in lines) == 1, lines
    assert sum("no checkpoint was written: " in line for line in lines) == 1, lines
    assert any("takes checkpoints again" in line for line in lines)
    events = [line["text"] for line in read_lines(folder / "events.jsonl") if line["kind"] == "disk"]
    assert any("missing for good: nothing" in text for text in [*events, *lines])
    assert not list(folder.rglob("*.part"))
    assert not list(folder.rglob(".part-*"))


def test_a_disk_that_stays_full_ends_no_run(disk: Path) -> None:
    lines = run(disk / "run", lambda step: fill(disk) if step == 7 else None)
    assert names(disk / "run") == ["step-00000005"]
    metrics = read_metrics(disk / "run")  # whole lines only
    assert [line["step"] for line in metrics] == list(range(len(metrics)))
    assert 8 <= len(metrics) <= 40
    assert any("no checkpoint was written" in line and "the newest is step-00000005" in line for line in lines)


def test_a_run_goes_on_from_its_checkpoint_on_a_full_disk(disk: Path) -> None:
    folder = disk / "run"
    run(folder, steps=10)
    shutil.rmtree(folder / "checkpoints" / "step-00000010")
    fill(disk)
    lines = run(folder, lambda step: (disk / "filler").unlink() if step == 14 else None, steps=20, resume=True)
    assert "checkpoint: going on from step-00000005" in lines
    assert [line["step"] for line in read_metrics(folder)] == list(range(20))
    assert names(folder)[-1] == "step-00000020"


def test_a_disk_that_becomes_read_only_ends_no_run(disk: Path) -> None:
    def at(step: int) -> None:
        if step in (7, 29):
            subprocess.run(["mount", "-o", f"remount,{'ro' if step == 7 else 'rw'}", disk], check=step == 29)

    lines = run(disk / "run", at)
    metrics = read_metrics(disk / "run")
    assert [line["step"] for line in metrics] == list(range(40))
    assert names(disk / "run")[-1] == "step-00000040"
    assert lines


def test_a_folder_that_is_deleted_begins_anew(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    lines = run(folder, lambda step: shutil.rmtree(folder) if step == 7 else None)
    assert [line["step"] for line in read_metrics(folder)] == list(range(8, 40))
    assert names(folder)[-1] == "step-00000040"
    assert (folder / "config.toml").exists()
    told = [*lines, *(line["text"] for line in read_lines(folder / "events.jsonl"))]
    assert any("was deleted or replaced: its files begin anew here" in line for line in told)


def test_nothing_is_written_into_another_run_that_stands_in_its_place(tmp_path: Path) -> None:
    folder, other = tmp_path / "run", tmp_path / "other"
    run(other, steps=3)
    before = {path.name: path.read_bytes() for path in other.iterdir() if path.is_file()}
    checkpoints = names(other)

    def at(step: int) -> None:
        if step == 7:
            folder.rename(tmp_path / "away")
            other.rename(folder)

    run(folder, at)
    assert {name: (folder / name).read_bytes() for name in before if name != "lock"} == {
        name: raw for name, raw in before.items() if name != "lock"
    }
    assert names(folder) == checkpoints


def test_no_line_goes_into_another_run_between_two_steps(tmp_path: Path) -> None:
    """The folder is deleted, another run's stands there, and a line comes before the next step looks."""
    path, other = tmp_path / "run", tmp_path / "other"
    RunFolder(other).close()
    before = {file.name: file.read_bytes() for file in other.iterdir() if file.is_file()}
    folder = RunFolder(path)
    folder.step(0, loss=1.0)
    shutil.rmtree(path)
    other.rename(path)
    folder.event("members", "worker 1 joined")
    folder.evaluation(1, 0.1, 0.1, {"score": 1.0})
    folder.logs.add(1, "hello")
    folder.write_summary({})
    folder.close()
    assert {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()} == before
    assert not (path / "logs").exists()


def test_a_resumed_run_whose_lines_cannot_be_cut_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    run(folder, steps=5)
    lines = (folder / "metrics.jsonl").read_bytes()
    (folder / "metrics.jsonl").write_bytes(b"garbage\n" + lines)

    def full(*about: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gcdist.observe.folder.write_whole", full)
    with pytest.raises(gcdist.ConfigError, match=r"^resume: the run's folder .* cannot be written: No space left"):
        run(folder, steps=10, resume=True)
    monkeypatch.undo()
    run(folder, steps=10, resume=True)  # nothing was lost, and nobody holds the folder
    assert [line["step"] for line in read_metrics(folder)] == list(range(10))


def test_no_flipped_bit_of_a_checkpoint_is_believed(tmp_path: Path) -> None:
    """Each of 400 single flips in each file is seen: a 64-bit sum misses one with probability 2e-17."""
    run(tmp_path / "run", steps=5)
    path = tmp_path / "run" / "checkpoints" / "step-00000005"
    rng = random.Random(0)
    for file in sorted(path.iterdir()):
        whole = file.read_bytes()
        for _ in range(400):
            at, bit = rng.randrange(len(whole)), rng.randrange(8)
            changed = bytearray(whole)
            changed[at] ^= 1 << bit
            file.write_bytes(changed)
            try:
                read_checkpoint(path)
            except DamagedError as error:
                assert "\n" not in str(error)  # noqa: PT017
            else:  # white space that JSON does not count
                assert file.name == "checksums.json"
                assert json.loads(changed) == json.loads(whole)
        file.write_bytes(whole)
    assert read_checkpoint(path).step == 5


@pytest.mark.parametrize("name", ["metrics.jsonl", "evaluations.jsonl", "events.jsonl", "workers.jsonl"])
def test_garbage_in_a_log_does_not_end_a_resumed_run(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "run"
    run(folder, steps=10)
    lines = (folder / name).read_bytes().splitlines(keepends=True)
    garbage = b'\xff\x00\xfe garbage\n{"step": "x"}\n[[[[\n'
    (folder / name).write_bytes(b"".join(lines[:2]) + garbage + b"".join(lines[2:]) + b'{"half')
    told = run(folder, steps=20, resume=True)
    assert [line["step"] for line in read_metrics(folder)] == list(range(20))
    # three, but an event or a worker's time may have a step that is no number; the half line is cut off as ever
    assert any(re.search(rf"{name}: [23] damaged lines were cut out", line) for line in told), told


def test_lines_of_odd_characters_stay_as_they_are(tmp_path: Path) -> None:
    """JSON in Python reads half a surrogate pair, UTF-8 does not: cutting a line behind it must not decode it."""
    with RunFolder(tmp_path) as folder:
        folder.event("error", "first")
    odd = b'{"step":null,"kind":"error","text":"\xed\xa0\x80"}\n'
    with (tmp_path / "events.jsonl").open("ab") as file:
        file.write(b"garbage\n" + odd)
    with RunFolder(tmp_path, resume=True) as folder:
        folder.rewind(0)
    assert odd in (tmp_path / "events.jsonl").read_bytes()
    assert b"garbage" not in (tmp_path / "events.jsonl").read_bytes()


@pytest.mark.parametrize(
    "name", ["events.jsonl", "metrics.jsonl", "config.toml", "summary.json", "checkpoints", "logs", "lock"]
)
def test_no_link_in_a_folder_of_somebody_else_is_followed(tmp_path: Path, name: str) -> None:
    folder, outside = tmp_path / "run", tmp_path / "outside"
    run(folder, steps=5)
    outside.mkdir()
    (outside / "file").write_text("mine\n")
    with suppress(FileNotFoundError, IsADirectoryError, PermissionError):
        (folder / name).unlink()
    shutil.rmtree(folder / name, ignore_errors=True)
    (folder / name).symlink_to(outside if name in ("checkpoints", "logs") else outside / "file")
    with pytest.raises(gcdist.ConfigError, match=rf"{name} is a symbolic link; none is followed: remove it"):
        run(folder, steps=10, resume=True)
    assert (outside / "file").read_text() == "mine\n"
    assert [path.name for path in outside.iterdir()] == ["file"]
