"""A run that was broken off and resumed gives the numbers of the one that was not: simulated, to the last bit."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

import gcdist
from gcdist.observe import read_lines, read_metrics
from gcdist.run.cluster import Cluster
from gcdist.tasks import digits, load_task

STEPS, EVERY = 23, 7


def task() -> gcdist.Task:
    """Digits with dropout, BatchNorm and a buffer that is not persistent."""
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    good = digits.build(model="mlp")
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Dropout(0.3), nn.Linear(24, 10)
    )
    model.register_buffer("hidden", torch.zeros(2), persistent=False)
    return gcdist.Task(model, good.dataset, good.loss_fn, batch_size=8, evaluate=good.evaluate)


def config(out: Path, scheme: str, **more: Any) -> gcdist.Config:
    settings: dict[str, Any] = {
        "out": out,
        "cluster": {"workers": 4},
        "code": {"scheme": scheme},
        "inject": {
            "model": "gilbert-elliott",
            "shift": 0.1,
            "mean": (0.02, 0.1, 0.2, 0.6),
            "slowdown": 2.0,
            "slow_share": 0.2,
            "slow_spell": 4.0,
        },
        "straggler": {"warmup_steps": 3, "replan_every": 5, **more.pop("straggler", {})},
        "simulate": {"latency": 0.03},  # messages are on their way when a step closes
        "checkpoint": {"every": EVERY},
        "evaluation": {"every": 5},
    }
    return gcdist.Config(**{**settings, **more})


def train(cluster: Cluster, until: int = STEPS) -> dict[str, Any]:
    """The user's loop: Adam, a scheduler, an average of their own, numbers from the global generators."""
    model = cluster.session.task.model
    last = model.get_parameter("5.bias")
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=STEPS + 1)
    mine: dict[str, Any] = {"mean": torch.zeros(10), "drawn": []}
    cluster.track(optimizer=optimizer, scheduler=scheduler, mine=mine)
    for step in cluster.steps(STEPS):
        step.backward()
        optimizer.step()
        scheduler.step()
        mine["mean"] = 0.9 * mine["mean"] + 0.1 * last.detach()
        mine["drawn"].append((random.random(), np.random.rand(), float(torch.rand(()))))  # noqa: NPY002
        if step.number == until - 1 < STEPS - 1:  # as if the process had been killed: nothing more is written
            setattr(cluster.checkpoints, "save_what_is_new", lambda: None)  # noqa: B010
            break
    return mine


def quiet(kind: str, text: str) -> None:
    """The log is not wanted."""


def outcome(cluster: Cluster, mine: dict[str, Any]) -> tuple[Any, ...]:
    model = cluster.session.task.model
    state = {name: value.clone() for name, value in model.state_dict().items()}
    return state, mine, read_metrics(cluster.folder.path), cluster.rule.deadline, cluster.summary().as_dict()


@pytest.mark.parametrize(
    ("scheme", "deadline", "until"),
    [
        ("memory", 0.45, 12),
        ("memory", 0.45, 21),
        ("shifted", "auto", 20),
        ("partial-memory", 0.45, 12),
        ("partial-memory", "auto", 21),
        ("self-normalised", 0.45, 17),
        ("joint", "auto", 9),
        ("auto", "auto", 9),
    ],
)
def test_a_resumed_run_gives_the_same_numbers(tmp_path: Path, scheme: str, deadline: Any, until: int) -> None:
    settings = config(tmp_path, scheme, straggler={"deadline": deadline})
    with gcdist.simulate(task(), settings, folder=tmp_path / "whole", say=quiet) as cluster:
        whole = outcome(cluster, train(cluster))
    with gcdist.simulate(task(), settings, folder=tmp_path / "run", say=quiet) as cluster:
        train(cluster, until)
    torch.manual_seed(99)  # a process of its own would begin with other generators, too
    random.seed(98)
    np.random.seed(97)  # noqa: NPY002
    with gcdist.simulate(task(), settings, resume=tmp_path / "run", say=quiet) as cluster:
        resumed = outcome(cluster, train(cluster))
    assert whole[0].keys() == resumed[0].keys()
    for name, value in whole[0].items():
        assert torch.equal(value, resumed[0][name]), name
    assert torch.equal(whole[1].pop("mean"), resumed[1].pop("mean"))
    assert whole[1] == resumed[1]
    assert [line["step"] for line in resumed[2]] == list(range(STEPS))
    assert whole[2] == resumed[2]
    assert any(len(line["arrived"]) < 4 for line in whole[2])
    for summary in (whole[4], resumed[4]):
        del summary["folder"]
    assert whole[3:] == resumed[3:]
    evaluations = [list(read_lines(tmp_path / name / "evaluations.jsonl")) for name in ("whole", "run")]
    assert evaluations[0] == evaluations[1]
    assert [line["step"] for line in evaluations[0]] == [5, 10, 15, 20]


@pytest.mark.parametrize("link_seconds", [0.0, 0.002])
def test_auto_knows_what_its_workers_remember_and_whose_turn_it_is(tmp_path: Path, link_seconds: float) -> None:
    """A resumed run filled memories that were full, in a step three times as long; links passed in another order."""
    settings = {
        "seed": 587,
        "code": {"partitions": 8},
        "cluster": {"workers": 8},
        "inject": {"model": "shifted-exponential", "shift": 0.002, "mean": 0.02, "scale_with_load": True},
        "simulate": {"bandwidth": 1e5, "link_seconds": link_seconds},
        "checkpoint": {"every": 8},
    }

    def ran(folder: str, until: int, resume: bool = False) -> list[gcdist.StepInfo]:
        where: dict[str, Any] = {"resume": tmp_path / folder} if resume else {"folder": tmp_path / folder}
        good = load_task("least-squares", {"samples": 60, "dim": 60}, 8, tmp_path)
        with gcdist.simulate(good, settings, say=quiet, **where) as cluster:
            optimizer = torch.optim.SGD(good.model.parameters(), 0.05)
            cluster.track(optimizer=optimizer)
            infos = []
            for step in cluster.steps(until):
                infos.append(step.backward())
                optimizer.step()
        return infos

    whole = ran("whole", 16)
    assert whole[:8] == ran("run", 8)
    assert whole[8:] == ran("run", 16, resume=True)
    choices = [line["text"] for line in read_lines(tmp_path / "run" / "events.jsonl") if line["kind"] == "auto"]
    assert any("a memory of each partition" in line for line in choices)


def test_who_is_busy_as_a_checkpoint_is_written_still_is(tmp_path: Path) -> None:
    """Partitions that go on behind their cut: a resumed run took everybody to be free, and promised too many arrivals."""
    settings = {
        "seed": 889,
        "code": {"partitions": 30},
        "quantizer": {"name": "float32"},
        "straggler": {"deadline": 0.02},
        "cluster": {"workers": 6},
        "inject": {"model": "pareto", "where": "compute", "scale": 0.0177, "shape": 3.28, "scale_with_load": True},
        "simulate": {"cores": 0, "compute_seconds": 0.001},
        "checkpoint": {"every": 8},
    }

    def ran(folder: str, until: int, resume: bool = False) -> list[tuple[Any, ...]]:
        where: dict[str, Any] = {"resume": tmp_path / folder} if resume else {"folder": tmp_path / folder}
        good = load_task("quadratic", {"samples": 60, "dim": 5, "blocks": 4}, 4, tmp_path)
        with gcdist.simulate(good, settings, say=quiet, **where) as cluster:
            infos = [step.backward() for step in cluster.steps(until)]
        return [(info.loss, info.arrived, info.noise_planned) for info in infos]

    whole = ran("whole", 12)
    ran("run", 8)
    assert whole[8:] == ran("run", 12, resume=True)
    assert any(len(arrived) < 6 for _, arrived, _ in whole[8:])


def test_the_models_file_is_its_plain_state_dict(tmp_path: Path) -> None:
    with gcdist.simulate(task(), config(tmp_path, "osgc"), folder=tmp_path / "run", say=quiet) as cluster:
        train(cluster)
    fresh = task().model
    last = tmp_path / "run" / "checkpoints" / f"step-{STEPS:08d}"
    fresh.load_state_dict(safetensors.torch.load_file(last / "model.safetensors"))
    for name, value in cluster.session.task.model.state_dict().items():
        assert torch.equal(value, fresh.state_dict()[name])


def test_keep_is_how_many_stay(tmp_path: Path) -> None:
    settings = config(tmp_path, "osgc", checkpoint={"every": 4, "keep": 2})
    with gcdist.simulate(task(), settings, folder=tmp_path / "run", say=quiet) as cluster:
        train(cluster)
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["step-00000020", "step-00000023"]
    settings = config(tmp_path, "osgc", checkpoint={"keep": 0})
    with gcdist.simulate(task(), settings, folder=tmp_path / "none", say=quiet) as cluster:
        train(cluster)
    assert not (tmp_path / "none" / "checkpoints").exists()


def test_the_count_of_steps_is_the_total(tmp_path: Path) -> None:
    settings = config(tmp_path, "osgc")
    with gcdist.simulate(task(), settings, folder=tmp_path / "run", say=quiet) as cluster:
        assert [step.backward().step for step in cluster.steps(3)] == [0, 1, 2]
        assert [step.backward().step for step in cluster.steps(2)] == [3, 4]
    with gcdist.simulate(task(), settings, resume=tmp_path / "run", say=quiet) as cluster:
        assert [step.backward().step for step in cluster.steps(3)] == []
        assert [step.backward().step for step in cluster.steps(4)] == [5, 6]
        assert [step.backward().step for step in cluster.steps(1)] == [7]
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == list(range(8))


def test_without_a_checkpoint_the_run_begins_in_that_folder(tmp_path: Path) -> None:
    lines: list[str] = []
    run = tmp_path / "run"
    with gcdist.simulate(
        task(), config(tmp_path, "osgc"), resume=run, say=lambda kind, text: lines.append(text)
    ) as cluster:
        train(cluster, 3)
    assert any("no checkpoint" in line and "begins at step 0" in line for line in lines)
    with gcdist.simulate(task(), config(tmp_path, "osgc"), resume=run, say=quiet) as cluster:
        train(cluster, 2)
    assert [line["step"] for line in read_metrics(run)] == [0, 1]


def broken_off(out: Path, **more: Any) -> Path:
    with gcdist.simulate(task(), config(out, "osgc", **more), folder=out / "run", say=quiet) as cluster:
        train(cluster, 15)
    return out / "run"


def damage_text(path: Path) -> None:
    (path / "state.json").write_text((path / "state.json").read_text()[:-40])


def damage_tensors(path: Path) -> None:
    raw = bytearray((path / "model.safetensors").read_bytes())
    raw[-3] ^= 1
    (path / "model.safetensors").write_bytes(raw)


def cut_tensors(path: Path) -> None:
    (path / "state.safetensors").write_bytes((path / "state.safetensors").read_bytes()[:-9])


def lose(path: Path) -> None:
    (path / "model.safetensors").unlink()


@pytest.mark.parametrize("damage", [damage_text, damage_tensors, cut_tensors, lose])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    run = broken_off(tmp_path)
    damage(run / "checkpoints" / "step-00000014")
    lines: list[str] = []
    say = lambda kind, text: lines.append(text)  # noqa: E731
    with gcdist.simulate(task(), config(tmp_path, "osgc"), resume=run, say=say) as cluster:
        train(cluster)
    [line] = [line for line in lines if "damaged" in line]
    assert "step-00000014" in line
    assert "\n" not in line
    assert "going on from step-00000007" in lines
    assert [line["step"] for line in read_metrics(run)] == list(range(STEPS))


def test_other_settings_are_told_or_refused(tmp_path: Path) -> None:
    run = broken_off(tmp_path)
    lines: list[str] = []
    other = config(tmp_path, "joint", straggler={"deadline": 0.7, "window": 50})
    with gcdist.simulate(task(), other, resume=run, say=lambda kind, text: lines.append(text)) as cluster:
        train(cluster, 18)
    [line] = [line for line in lines if "settings that differ from the run so far" in line]
    assert 'code.scheme = "joint" (was "osgc")' in line
    assert "straggler.deadline = 0.7" in line
    assert any("arrivals are learned anew" in line for line in lines)
    changes: list[tuple[dict[str, Any], str]] = [
        ({"seed": 5}, "^seed: found 5; the run in .* has 0"),
        ({"code": {"scheme": "osgc", "partitions": 4}}, "^code.partitions: found 4; the run in .* has 8"),
    ]
    for change, text in changes:
        with pytest.raises(gcdist.ConfigError, match=text):
            gcdist.simulate(task(), config(tmp_path, "osgc", **change), resume=run, say=quiet)
    smaller = task()
    smaller = gcdist.Task(smaller.model, smaller.dataset, smaller.loss_fn, batch_size=3)
    with pytest.raises(gcdist.ConfigError, match=r"^task.batch_size: found 3; the run in .* has 8"):
        gcdist.simulate(smaller, config(tmp_path, "osgc"), resume=run, say=quiet)
    fewer = task()
    fewer = gcdist.Task(fewer.model, torch.utils.data.Subset(fewer.dataset, range(100)), fewer.loss_fn, batch_size=8)
    with pytest.raises(gcdist.ConfigError, match=r"the data set has 100 samples; the run in .* has"):
        gcdist.simulate(fewer, config(tmp_path, "osgc"), resume=run, say=quiet)
    wider = gcdist.Task(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), fewer.dataset.dataset, fewer.loss_fn, batch_size=8
    )
    with pytest.raises(gcdist.ConfigError, match="the checkpoint is of another model"):
        gcdist.simulate(wider, config(tmp_path, "osgc"), resume=run, say=quiet)
    with pytest.raises(gcdist.ConfigError, match="resume: which run"):
        gcdist.simulate(task(), config(tmp_path, "osgc"), resume=True, say=quiet)


def test_more_workers_may_go_on(tmp_path: Path) -> None:
    run = broken_off(tmp_path, code={"scheme": "memory", "partitions": 8})
    more = config(tmp_path, "memory", cluster={"workers": 6}, code={"scheme": "memory", "partitions": 8}, inject={})
    with gcdist.simulate(task(), more, resume=run, say=quiet) as cluster:
        train(cluster)
    assert read_metrics(run)[-1]["live"] == 6


def test_a_halted_run_leaves_a_checkpoint(tmp_path: Path) -> None:
    class Failing(digits.Digits):
        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            if self.broken:
                raise OSError("disk on fire")
            return super().__getitem__(index)

        broken = False

    images, labels = digits.arrays()
    data = Failing(images[:64], labels[:64])
    made = task()
    cluster = gcdist.simulate(
        gcdist.Task(made.model, data, made.loss_fn, batch_size=8),
        config(tmp_path, "osgc"),
        folder=tmp_path / "run",
        say=quiet,
    )

    def loop() -> None:
        for step in cluster.steps(STEPS):
            Failing.broken = step.number >= 4
            step.backward()

    with cluster, pytest.raises(gcdist.RunHaltedError):
        loop()
    [path] = (tmp_path / "run" / "checkpoints").iterdir()
    assert 4 <= int(path.name.removeprefix("step-")) < 9  # a row that is cut may end before the bad partition


def full_file(*about: Any, **more: Any) -> None:
    raise OSError(28, "No space left on device")


def full_tensors(tensors: Any, path: Path) -> None:
    path.write_bytes(b"half")
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize("full", [full_file, full_tensors])
def test_a_disk_that_is_full_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: Callable[..., None]
) -> None:
    lines: list[str] = []
    say = lambda kind, text: lines.append(text)  # noqa: E731
    with gcdist.simulate(task(), config(tmp_path, "osgc"), folder=tmp_path / "run", say=say) as cluster:
        with monkeypatch.context() as patched:
            patched.setattr("gcdist.run.checkpoint.save_file", full)
            train(cluster)
            with pytest.raises(OSError, match="No space left"):
                cluster.save()
        assert sum("no checkpoint was written" in line for line in lines) == 1  # not at each of the four
        assert not list((tmp_path / "run" / "checkpoints").iterdir())  # nothing half
    assert len(read_metrics(tmp_path / "run")) == STEPS
    assert any("the disk takes checkpoints again" in line for line in lines)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == [f"step-{STEPS:08d}"]


def test_unfrozen_parameters_go_on(tmp_path: Path) -> None:
    def run(cluster: Cluster, until: int) -> None:
        model = cluster.session.task.model
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        cluster.track(optimizer=optimizer)
        for step in cluster.steps(12):
            if step.number == 5:
                model.get_submodule("1").requires_grad_(True)
            step.backward()
            optimizer.step()
            if step.number == until - 1 < 11:  # as if the process had been killed
                setattr(cluster.checkpoints, "save_what_is_new", lambda: None)  # noqa: B010
                break

    def frozen() -> gcdist.Task:
        made = task()
        made.model.get_submodule("1").requires_grad_(False)
        return made

    settings = config(tmp_path, "memory", straggler={"deadline": 0.45})
    with gcdist.simulate(frozen(), settings, folder=tmp_path / "whole", say=quiet) as cluster:
        run(cluster, 12)
        whole = {name: value.clone() for name, value in cluster.session.task.model.state_dict().items()}
    with gcdist.simulate(frozen(), settings, folder=tmp_path / "run", say=quiet) as cluster:
        run(cluster, 8)
    with gcdist.simulate(frozen(), settings, resume=tmp_path / "run", say=quiet) as cluster:
        run(cluster, 12)
        for name, value in cluster.session.task.model.state_dict().items():
            assert torch.equal(value, whole[name]), name
    assert read_metrics(tmp_path / "whole") == read_metrics(tmp_path / "run")


def test_an_untracked_optimizer_is_told_once(tmp_path: Path) -> None:
    lines: list[str] = []
    say = lambda kind, text: lines.append(text)  # noqa: E731
    with gcdist.simulate(task(), config(tmp_path, "osgc"), folder=tmp_path / "run", say=say) as cluster:
        for step in cluster.steps(15):
            step.backward()
    assert sum("no optimizer is tracked" in line for line in lines) == 1
