"""`transformers.Trainer` at the master of a coded run: pip install 'gcdist[hf]'.

    task = hf.task(model, train_dataset, batch_size=8)
    with gcdist.integrations.connect(task, config) as cluster:        # workers serve in here
        trainer = hf.CodedTrainer(cluster, TrainingArguments("out"), eval_dataset=eval_dataset)
        trainer.train()

Workers compute the loss of `task`; everything else is the Trainer's, at the master: optimizer, schedule, clipping,
callbacks, logging, evaluation, checkpoints and resuming from them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader

from gcdist import Cluster, ConfigError, StepInfo, Task
from gcdist.integrations.rounds import Rounds, missing, refuse, round_loader

try:
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments, default_data_collator
    from transformers.training_args import ParallelMode
except ImportError as error:
    raise missing("transformers and accelerate", "hf", error) from error

Collator = Callable[[list[Any]], Any]
LABELS = ("label", "label_ids", "labels")  # that collators and models know by these names
AUTOCAST = "put torch.autocast into the loss function of hf.task: workers compute the loss"


def task(
    model: nn.Module,
    train_dataset: Any,
    batch_size: int = 8,
    *,
    data_collator: Collator | None = None,
    processing_class: Any = None,
    loss_fn: Callable[..., Any] | None = None,
    **more: Any,
) -> Task:
    """A task of a model that computes its own loss, on every rank.

    Args:
        model: gives a loss for a batch with labels, as the models of transformers do. It is put into training mode.
        train_dataset: map-style, of dictionaries; columns that ``model.forward`` has no argument for are left out.
        batch_size: samples of one partition in one step, in place of ``per_device_train_batch_size``.
        data_collator: makes a batch of a list of samples; None: as the Trainer chooses.
        processing_class: a tokenizer, for that choice: batches are then padded.
        loss_fn: ``loss_fn(model, batch)``, in place of ``compute_loss``; see `gcdist.Task`.
        more: of `gcdist.Task`: partitioner, evaluate, holds.

    Raises:
        ConfigError: the model is spread over devices.
        ValueError: what `gcdist.Task` refuses.
    """
    refuse(
        "hf.task",
        (
            getattr(model, "hf_device_map", None),
            "the model has a device map; load it whole: gcdist trains it in one process",
        ),
    )
    if data_collator is None:
        data_collator = default_data_collator if processing_class is None else DataCollatorWithPadding(processing_class)
    model.train()
    if getattr(getattr(model, "config", None), "use_cache", None) is not None:
        model.config.use_cache = False  # type: ignore[union-attr]  # as the Trainer does; caches are for generating
    collated = ModelColumns(data_collator, model)
    return Task(model, train_dataset, loss_fn or model_loss, batch_size, collated, **more)


def model_loss(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    """The loss that the model computes of a batch: ``outputs.loss``, or the first of a tuple.

    Raises:
        ValueError: it gives none.
    """
    outputs = model(**batch)
    if isinstance(outputs, dict) and "loss" not in outputs:
        raise ValueError(f"the model gave no loss for a batch of {', '.join(batch)}: are there labels?")
    loss: Tensor = outputs["loss"] if isinstance(outputs, dict) else outputs[0]
    return loss


class ModelColumns:
    """A collator that sees only those columns of a sample that the model's ``forward`` has an argument for."""

    def __init__(self, collator: Collator, model: nn.Module) -> None:
        self.collator = collator
        self._columns = {*inspect.signature(model.forward).parameters, *LABELS}

    def __call__(self, samples: list[Any]) -> Any:
        """The batch."""
        return self.collator(
            [
                {k: v for k, v in each.items() if k in self._columns} if isinstance(each, dict) else each
                for each in samples
            ]
        )


class CodedTrainer(Trainer):  # type: ignore[misc]
    """A `transformers.Trainer` whose backward pass is a coded round; mix it into a subclass of your own as its first base.

    Args:
        cluster: of `gcdist.integrations.connect` or `gcdist.simulate`, with a task of `task`.
        args: made after connecting.
        more: of the Trainer, without the model and the training data, which are the task's.

    Raises:
        ConfigError: what cannot work with a loss that workers compute, a line each.
    """

    def __init__(self, cluster: Cluster, args: TrainingArguments | None = None, **more: Any) -> None:
        self.rounds = Rounds(cluster)
        mine = cluster.session.task
        own_loss = mine.loss_fn is not model_loss
        _refuse_parts(type(self), more, mine, own_loss)
        if args is not None:
            _refuse_settings(args, own_loss)
        if isinstance(mine.collate_fn, ModelColumns):
            more.setdefault("data_collator", mine.collate_fn.collator)
        more.update(model=mine.model, train_dataset=mine.dataset)
        super().__init__(args=args, **more)
        if args is None:
            _refuse_settings(self.args, own_loss)

    @property
    def cluster(self) -> Cluster:
        """The run."""
        return self.rounds.cluster

    def train(self, *args: Any, **more: Any) -> Any:
        """Train; see the Trainer's."""
        found = super().train(*args, **more)
        self.rounds.finish()
        return found

    def get_train_dataloader(self) -> DataLoader[int]:
        """One item a step: the workers read the data."""
        return round_loader(self.cluster.steps_per_epoch)

    def num_examples(self, dataloader: Any) -> int:
        """Samples of an epoch."""
        mine = dataloader.dataset if hasattr(dataloader, "dataset") else dataloader
        ours = isinstance(mine, type(round_loader(1).dataset))
        return len(self.cluster.session.task.dataset) if ours else int(super().num_examples(dataloader))

    def get_total_train_batch_size(self, args: TrainingArguments) -> int:
        """Samples of a step: partitions x batch_size."""
        return self.rounds.global_batch

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """One coded round with the model's parameters as they are: fills ``.grad``; the mean loss of what arrived."""
        model.train()
        if callable(to_train := getattr(self.optimizer, "train", None)):  # schedule-free optimizers have modes
            to_train()
        self.rounds.backward(self.state.global_step)
        return self.rounds.loss(self.args.device)

    def evaluate(self, *args: Any, **more: Any) -> dict[str, float]:
        """Evaluate at the master; the workers wait, and the run's clock stands still."""
        with self.cluster.accounts.ledger.pause("evaluation"):
            found: dict[str, float] = super().evaluate(*args, **more)
        return found

    def floating_point_ops(self, inputs: Any) -> int:
        """Zero: the workers' are not counted."""
        return 0

    def log(self, logs: dict[str, float], *args: Any, **more: Any) -> None:
        """Log, the loss together with how many workers arrived and what the loss function reports."""
        info: StepInfo | None = self.rounds.info
        if info is not None and "loss" in logs:
            logs = {**logs, "arrived": len(info.arrived), **info.metrics}
        super().log(logs, *args, **more)

    def hyperparameter_search(self, *args: Any, **more: Any) -> Any:
        """Refused: a run has one model."""
        raise ConfigError("hyperparameter_search: each trial needs a run of its own; start one script for each")


def _refuse_parts(kind: type, more: Mapping[str, Any], mine: Task, own_loss: bool) -> None:
    elsewhere = "workers compute the loss: give hf.task(..., loss_fn=...)"
    refuse(
        "CodedTrainer",
        (more.get("model_init"), "model_init would make a second model; build it before hf.task"),
        (more.get("model", mine.model) is not mine.model, "model is another one than the task's; leave it out"),
        (
            more.get("train_dataset", mine.dataset) is not mine.dataset,
            "train_dataset is another one than the task's; leave it out",
        ),
        (more.get("compute_loss_func") and not own_loss, f"compute_loss_func: {elsewhere}"),
        (kind.compute_loss is not Trainer.compute_loss and not own_loss, f"compute_loss is overridden: {elsewhere}"),  # type: ignore[attr-defined]
    )


def _refuse_settings(args: TrainingArguments, own_loss: bool) -> None:
    accumulated = args.gradient_accumulation_steps
    optimizer = str(getattr(args.optim, "value", args.optim))
    checkpointing = getattr(args, "gradient_checkpointing", False) or getattr(args, "activation_checkpointing", False)
    sampling = str(getattr(args, "train_sampling_strategy", "random"))
    grouped = getattr(args, "group_by_length", False) or sampling.rpartition(".")[-1].lower() != "random"
    refuse(
        "TrainingArguments",
        (
            args.parallel_mode == ParallelMode.DISTRIBUTED,
            "made before the workers were connected: make it after gcdist.integrations.connect",
        ),
        (
            accumulated != 1,
            f"gradient_accumulation_steps: found {accumulated}; take more partitions (code.partitions), which a worker "
            "computes one after the other",
        ),
        (args.fp16, f"fp16: a scaler needs the loss in this process; take bfloat16: {AUTOCAST}"),
        (args.bf16, f"bf16: {AUTOCAST}"),
        (args.n_gpu > 1, f"found {args.n_gpu} GPUs at the master, which it would spread the model over; show it one"),
        (getattr(args, "deepspeed", None), "deepspeed: the model is whole in every process"),
        (getattr(args, "fsdp", None), "fsdp: the model is whole in every process"),
        (getattr(args, "parallelism_config", None), "parallelism_config: the model is whole in every process"),
        (
            args.auto_find_batch_size,
            "auto_find_batch_size: workers compute the batches; give hf.task(..., batch_size=...)",
        ),
        (
            args.neftune_noise_alpha is not None,
            "neftune_noise_alpha: workers do not see its hook; add the noise in the model",
        ),
        (checkpointing, "gradient checkpointing: call model.gradient_checkpointing_enable() before hf.task"),
        (args.torch_compile, "torch_compile: workers would not compile; compile the model before hf.task"),
        (getattr(args, "use_liger_kernel", False), "use_liger_kernel: apply it to the model before hf.task"),
        (grouped, "grouping by length, or another order of the samples: the partitions draw their batches"),
        (
            args.label_smoothing_factor and not own_loss,
            "label_smoothing_factor: workers compute the loss: give hf.task(..., loss_fn=...)",
        ),
        (
            "lomo" in optimizer or "layerwise" in optimizer,
            f"optim: {optimizer} steps inside the backward pass, which the workers do",
        ),
    )
