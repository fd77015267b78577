"""Lightning's Trainer at the master: the numbers of the plain loop, its own machinery, resuming, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, WeightedRandomSampler

import gcdist
from tests.conftest import Start
from tests.integrations.by_hand import (
    EXAMPLES,
    STEPS,
    WRAPPED,
    by_hand,
    example,
    needs,
    printed_losses,
    same_state,
    simulated,
)

needs("lightning")
lightning_example = example("lightning_trainer")

from lightning.pytorch import Trainer  # noqa: E402
from lightning.pytorch.callbacks import ModelCheckpoint  # noqa: E402

from gcdist.integrations import lightning  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of Lightning's own packages
LIMIT = 240.0  # seconds
LONG = 20  # steps, more than an epoch
SYNC: gcdist.Config = lightning_example.settings(sync=True)
TRAIN, HELD_OUT = lightning_example.loaders()
EPOCH = 15  # steps: 1437 samples in 6 partitions, 16 of each a step


def task_and_module() -> tuple[gcdist.Task, Any]:
    module = lightning_example.make_module()
    return lightning.task(module, TRAIN), module


def trainer_of(cluster: gcdist.Cluster, folder: Path, *callbacks: Any, **more: Any) -> Any:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "gradient_clip_val": 1.0}
    given = {**quiet, "max_steps": STEPS, "default_root_dir": str(folder), "callbacks": list(callbacks), **more}
    return Trainer(strategy=lightning.CodedStrategy(cluster), accelerator="cpu", **given)


def optimizers(module: Any) -> tuple[torch.optim.Optimizer, Any]:
    (optimizer,), (schedule,) = module.configure_optimizers()
    return optimizer, schedule


def test_the_losses_are_those_of_the_plain_loop(tmp_path: Path) -> None:
    plain, plain_module = task_and_module()
    expected = by_hand(plain, SYNC, tmp_path / "hand", optimizers, every=EPOCH, steps=LONG)
    task, module = task_and_module()
    losses = lightning_example.Losses()
    with simulated(task, SYNC, tmp_path / "run") as cluster:
        assert cluster.steps_per_epoch == EPOCH
        trainer = trainer_of(cluster, tmp_path / "out", losses, max_steps=LONG)
        trainer.fit(module, TRAIN, HELD_OUT)
    assert losses.found == pytest.approx(expected, rel=1e-5)
    assert same_state(module, plain_module)
    assert 0 < float(trainer.callback_metrics["val_accuracy"]) <= 1
    assert 0 < float(trainer.callback_metrics["accuracy"]) <= 1  # logged by the workers' training_step


def test_a_checkpoint_of_lightning_goes_on_to_the_same_numbers(tmp_path: Path) -> None:
    plain, plain_module = task_and_module()
    expected = by_hand(plain, SYNC, tmp_path / "hand", optimizers, every=EPOCH)
    task, module = task_and_module()
    with simulated(task, SYNC, tmp_path / "first") as cluster:
        keep = ModelCheckpoint(dirpath=tmp_path / "kept", every_n_train_steps=4, save_top_k=-1)
        trainer_of(cluster, tmp_path / "out", keep, max_steps=4).fit(module, TRAIN)
    task, module = task_and_module()
    losses = lightning_example.Losses()
    with simulated(task, SYNC, tmp_path / "second") as cluster:
        (path,) = (tmp_path / "kept").glob("*.ckpt")
        trainer_of(cluster, tmp_path / "out", losses).fit(module, TRAIN, ckpt_path=path)
        assert cluster.accounts.next == STEPS
    assert losses.found == pytest.approx(expected[4:], rel=1e-5)
    assert same_state(module, plain_module)


def test_the_example_by_processes_gives_the_same_losses(tmp_path: Path, start: Start) -> None:
    expected = by_hand(task_and_module()[0], SYNC, tmp_path / "hand", optimizers, every=EPOCH)
    script = [str(WRAPPED), str(EXAMPLES / "lightning_trainer.py"), "--sync", "--steps", str(STEPS), "--out"]
    cluster = start([*script, str(tmp_path / "out")], ranks=3, env={"LOCAL_RANK": "0", "GROUP_RANK": "0"})
    assert cluster.wait(LIMIT) == [0, 0, 0], cluster.output(0)
    assert printed_losses(cluster.output(0)) == pytest.approx(expected, rel=1e-4)


class Hooked(lightning_example.Digits):  # type: ignore[misc, name-defined]
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch


def test_modules_that_cannot_work_are_refused() -> None:
    module = lightning_example.make_module()
    module.automatic_optimization = False
    with pytest.raises(
        gcdist.ConfigError, match=r"^lightning\.task: the module optimizes by hand \(several optimizers"
    ):
        lightning.task(module, TRAIN)
    with pytest.raises(gcdist.ConfigError, match=r"^lightning\.task: the module overrides on_after_batch_transfer"):
        lightning.task(Hooked(), TRAIN)
    drawn = DataLoader(TRAIN.dataset, batch_size=4, sampler=WeightedRandomSampler([1.0] * 10, 10))
    with pytest.raises(gcdist.ConfigError, match=r"^lightning\.task: the loader has a sampler of its own"):
        lightning.task(lightning_example.make_module(), drawn)


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"accumulate_grad_batches": 2}, "accumulate_grad_batches: found 2; take more partitions"),
        ({"precision": "bf16-mixed"}, "precision: found bf16-mixed; workers compute the loss"),
        ({"overfit_batches": 1}, "overfit_batches: the workers read the data"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path: Path, more: dict[str, Any], line: str) -> None:
    task, module = task_and_module()
    with simulated(task, SYNC, tmp_path / "run") as cluster:
        with pytest.raises(gcdist.ConfigError, match=f"^Trainer: {line}"):
            trainer_of(cluster, tmp_path / "out", **more).fit(module, TRAIN)
        with pytest.raises(gcdist.ConfigError, match=r"^Trainer: the module is another one than the task's"):
            trainer_of(cluster, tmp_path / "out").fit(lightning_example.make_module(), TRAIN)
