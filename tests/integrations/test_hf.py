"""`transformers.Trainer` at the master: the numbers of the plain loop, its own machinery, resuming, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import gcdist
import gcdist.api
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

needs("transformers", "accelerate")
hf_example = example("hf_trainer")

from transformers import TrainerCallback, TrainingArguments, get_cosine_schedule_with_warmup  # noqa: E402

from gcdist.integrations import hf  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of the trainers' own packages
LIMIT = 240.0  # seconds
SYNC: gcdist.Config = hf_example.settings(sync=True)


def arguments(folder: Path, **more: Any) -> Any:
    given = {
        "max_steps": STEPS,
        "learning_rate": 3e-3,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 5,
        "optim": "adamw_torch",
        "logging_steps": 1,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        **more,
    }
    return TrainingArguments(str(folder), **given)


def optimizers(model: Any) -> tuple[torch.optim.Optimizer, Any]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    return optimizer, get_cosine_schedule_with_warmup(optimizer, 5, STEPS)


class Notes(TrainerCallback):  # type: ignore[misc]
    def __init__(self, stop_at: int | None = None) -> None:
        self.said: list[str] = []
        self.stop_at = stop_at

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.said.append(f"step {state.global_step}")
        if state.global_step == self.stop_at:
            control.should_training_stop = True

    def on_evaluate(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.said.append(f"evaluated {state.global_step}")


def losses_of(trainer: Any) -> list[float]:
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


def test_the_losses_are_those_of_the_plain_loop(tmp_path: Path) -> None:
    plain = hf_example.make_task()
    expected = by_hand(plain, SYNC, tmp_path / "hand", optimizers)
    task, notes = hf_example.make_task(), Notes()
    with simulated(task, SYNC, tmp_path / "run") as cluster:
        args = arguments(tmp_path / "out", eval_strategy="steps", eval_steps=3)
        trainer = hf.CodedTrainer(cluster, args, eval_dataset=hf_example.texts(16, seed=2), callbacks=[notes])
        trainer.train()
    assert losses_of(trainer) == pytest.approx(expected, rel=1e-6)
    assert same_state(task.model, plain.model)
    assert [line for line in notes.said if "evaluated" in line] == ["evaluated 3", "evaluated 6"]
    assert len(notes.said) == STEPS + 2
    steps = [line for line in trainer.state.log_history if "loss" in line]
    assert max(line["learning_rate"] for line in steps) == pytest.approx(3e-3)  # the schedule warms up and falls
    assert all(line["arrived"] == 2 for line in steps)
    assert trainer.state.log_history[-1]["train_loss"] == pytest.approx(sum(expected) / STEPS, rel=1e-5)


def test_a_checkpoint_of_the_trainer_goes_on_to_the_same_numbers(tmp_path: Path) -> None:
    whole = hf_example.make_task()
    expected = by_hand(whole, SYNC, tmp_path / "whole", optimizers)
    with simulated(hf_example.make_task(), SYNC, tmp_path / "first") as cluster:
        hf.CodedTrainer(cluster, arguments(tmp_path / "b", save_steps=4), callbacks=[Notes(stop_at=4)]).train()
    task = hf_example.make_task()
    with simulated(task, SYNC, tmp_path / "second") as cluster:
        trainer = hf.CodedTrainer(cluster, arguments(tmp_path / "b"))
        trainer.train(resume_from_checkpoint=True)
        assert (cluster.accounts.next, cluster.accounts.trained) == (STEPS, STEPS - 4)
    assert losses_of(trainer) == pytest.approx(expected, rel=1e-6)
    assert same_state(task.model, whole.model)


def test_the_example_by_processes_gives_the_same_losses(tmp_path: Path, start: Start) -> None:
    expected = by_hand(hf_example.make_task(), SYNC, tmp_path / "hand", optimizers)
    script = [str(WRAPPED), str(EXAMPLES / "hf_trainer.py"), "--sync", "--steps", str(STEPS), "--out"]
    # what torchrun says as well: if the master did not leave the group, Accelerate would wait for two more processes
    cluster = start([*script, str(tmp_path / "out")], ranks=3, env={"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "3"})
    assert cluster.wait(LIMIT) == [0, 0, 0], cluster.output(0)
    assert printed_losses(cluster.output(0)) == pytest.approx(expected, rel=1e-4)
    assert (tmp_path / "out" / f"checkpoint-{STEPS}" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps: found 2; take more partitions"),
        ({"bf16": True}, "bf16: put torch.autocast into the loss function"),
        ({"neftune_noise_alpha": 5.0}, "neftune_noise_alpha: workers do not see its hook"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor: workers compute the loss"),
        ({"auto_find_batch_size": True}, "auto_find_batch_size: workers compute the batches"),
        ({"gradient_checkpointing": True}, "gradient checkpointing: call model.gradient_checkpointing_enable()"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path: Path, more: dict[str, Any], line: str) -> None:
    cluster = simulated(hf_example.make_task(), SYNC, tmp_path / "run")
    with cluster, pytest.raises(gcdist.ConfigError) as refused:
        hf.CodedTrainer(cluster, arguments(tmp_path / "out", **more))
    assert str(refused.value).startswith(f"TrainingArguments: {line}")


class OwnLoss(hf.CodedTrainer):
    def compute_loss(self, *args: Any, **more: Any) -> Any:
        raise AssertionError


def test_parts_that_cannot_work_are_refused(tmp_path: Path) -> None:
    def refused(line: str) -> Any:
        return pytest.raises(gcdist.ConfigError, match=f"^{line}")

    args = arguments(tmp_path / "out")
    with simulated(hf_example.make_task(), SYNC, tmp_path / "run") as cluster:
        with refused("CodedTrainer: compute_loss is overridden: workers compute the loss"):
            OwnLoss(cluster, args)
        with refused("CodedTrainer: model is another one than the task's"):
            hf.CodedTrainer(cluster, args, model=torch.nn.Linear(1, 1))
        with refused("CodedTrainer: model_init would make a second model"):
            hf.CodedTrainer(cluster, args, model_init=hf_example.make_task)
        with refused("hyperparameter_search: each trial needs a run"):
            hf.CodedTrainer(cluster, args).hyperparameter_search()
    with refused("trainer: found WorkerDone in place of a cluster"):
        hf.CodedTrainer(gcdist.api.WorkerDone(0, ""), args)  # type: ignore[arg-type]
    spread: Any = hf_example.make_task().model
    spread.hf_device_map = {"": 0}
    with refused(r"hf\.task: the model has a device map"):
        hf.task(spread, [])


def test_columns_that_the_model_has_no_argument_for_are_left_out() -> None:
    model = hf_example.make_task().model
    data = [{**row, "text": "as it was"} for row in hf_example.texts(4, seed=1)]
    task = hf.task(model, data, batch_size=2)
    batch = task.batch(data[:2])
    assert sorted(batch) == ["input_ids", "labels"]
    with pytest.raises(ValueError, match=r"^the model gave no loss for a batch of input_ids: are there labels"):
        task.loss(model, {"input_ids": batch["input_ids"]})
