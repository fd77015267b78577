"""Lightning's `Trainer` at the master of a coded run: pip install 'gcdist[lightning]'.

    task = lightning.task(module, train_loader)
    with gcdist.integrations.connect(task, config) as cluster:       # workers serve in here
        trainer = Trainer(strategy=lightning.CodedStrategy(cluster), accelerator="cpu", max_epochs=3)
        trainer.fit(module, train_loader, val_loader)

Workers run ``training_step``; everything else is Lightning's, at the master: optimizer, schedule, clipping, callbacks,
loggers, validation, checkpoints and resuming from them.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler

from gcdist import Cluster, Task
from gcdist.integrations.rounds import Rounds, missing, refuse, round_loader

try:
    from lightning.pytorch import LightningModule
    from lightning.pytorch.strategies import SingleDeviceStrategy
    from lightning.pytorch.utilities.model_helpers import is_overridden
except ImportError as error:
    raise missing("lightning", "lightning", error) from error

HOOKS = (
    "on_before_batch_transfer",
    "transfer_batch_to_device",
    "on_after_batch_transfer",
    "backward",
    "configure_model",
)


def task(module: LightningModule, train_dataloader: DataLoader[Any], **more: Any) -> Task:
    """A task of a LightningModule and its training data, on every rank.

    Args:
        module: its ``training_step(batch, batch_idx)`` gives the mean loss, or a dict with it; what it logs by ``self.log``
            arrives as means over the partitions. ``batch_idx`` is the number of the step. It is put into training mode.
        train_dataloader: tells the data set, the batch size of one partition in one step, and how samples are collated.
        more: of `gcdist.Task`: partitioner, evaluate, holds.

    Raises:
        ConfigError: what cannot work with a ``training_step`` that workers run, a line each.
        ValueError: what `gcdist.Task` refuses.
    """
    loader = train_dataloader
    refuse(
        "lightning.task",
        (
            not module.automatic_optimization,
            "the module optimizes by hand (several optimizers, or steps of its own): a round gives one gradient of one loss",
        ),
        (not isinstance(loader, DataLoader), f"found {type(loader).__name__} in place of one torch DataLoader"),
        *(
            (
                is_overridden(name, module),
                f"the module overrides {name}: workers do not call it; do it in training_step",
            )
            for name in HOOKS
        ),
    )
    plain = (
        isinstance(loader.sampler, RandomSampler | SequentialSampler)
        and type(loader.batch_sampler).__name__ == "BatchSampler"
    )
    refuse("lightning.task", (not plain, "the loader has a sampler of its own; the partitions draw their batches"))
    assert loader.batch_size is not None
    module.train()
    return Task(module, loader.dataset, TrainingStep(module), loader.batch_size, loader.collate_fn, **more)


class TrainingStep:
    """A loss function of a module's ``training_step``; numbers that it logs are reported beside the loss."""

    def __init__(self, module: LightningModule) -> None:
        self._counts = len(inspect.signature(module.training_step).parameters) > 1

    def __call__(self, module: LightningModule, batch: Any, *, step: int) -> tuple[Any, dict[str, Any]]:
        """The loss (None: nothing to train on) and what was logged."""
        logged: dict[str, Any] = {}

        def log(name: str, value: Any, *args: Any, **more: Any) -> None:
            logged[name] = value

        def log_dict(values: Mapping[str, Any], *args: Any, **more: Any) -> None:
            logged.update(values)

        module.log, module.log_dict = log, log_dict
        try:
            found = module.training_step(batch, step) if self._counts else module.training_step(batch)
        finally:
            del module.log, module.log_dict
        return (found["loss"] if isinstance(found, Mapping) else found), logged


class CodedStrategy(SingleDeviceStrategy):  # type: ignore[misc]
    """Lightning's strategy of one device, whose training step and backward pass are a coded round.

    Args:
        cluster: of `gcdist.integrations.connect` or `gcdist.simulate`, with a task of `task`.
        device: where the master keeps the model: evaluation and the optimizer run there.
        more: of SingleDeviceStrategy.
    """

    strategy_name = "gcdist"

    def __init__(self, cluster: Cluster, device: torch.device | str = "cpu", **more: Any) -> None:
        super().__init__(device=device, **more)
        self.rounds = Rounds(cluster)
        self._gradients: list[Tensor | None] = []
        self._pauses = ExitStack()

    def setup(self, trainer: Any) -> None:
        """Refuse what cannot work, before optimizers are made; see the base's."""
        _refuse_settings(trainer, self)
        super().setup(trainer)
        refuse(
            "Trainer",
            (
                len(self.optimizers) > 1,
                f"found {len(self.optimizers)} optimizers; a round gives one gradient of one loss",
            ),
            (
                any(isinstance(each, torch.optim.LBFGS) for each in self.optimizers),
                "LBFGS computes the loss several times a step; take another optimizer",
            ),
        )

    def process_dataloader(self, dataloader: Any) -> Any:
        """One item a step in place of the training data, which the workers read; other loaders stay."""
        if not self.lightning_module.trainer.training:
            return dataloader
        return round_loader(self.rounds.cluster.steps_per_epoch)

    def training_step(self, *args: Any, **more: Any) -> Tensor:
        """One coded round with the model's parameters as they are; the mean loss of what arrived."""
        module = self.lightning_module
        info = self.rounds.backward(module.trainer.global_step)
        self._gradients = [p.grad for p in module.parameters()]
        for name, value in info.metrics.items():
            module.log(name, value, prog_bar=True)
        return self.rounds.loss(self.root_device)

    def backward(self, closure_loss: Tensor, optimizer: Any, *args: Any, **more: Any) -> Tensor:
        """Put the round's gradients, which Lightning has zeroed meanwhile, back into ``.grad``."""
        loss = self.precision_plugin.pre_backward(closure_loss, self.lightning_module)
        for p, gradient in zip(self.lightning_module.parameters(), self._gradients, strict=True):
            p.grad = gradient
        self._gradients = []
        after: Tensor = self.precision_plugin.post_backward(loss, self.lightning_module)
        return after

    def on_validation_start(self) -> None:
        """The workers wait, and the run's clock stands still."""
        self._pauses.enter_context(self.rounds.cluster.accounts.ledger.pause("evaluation"))

    def on_validation_end(self) -> None:
        """The run's clock goes on."""
        self._pauses.close()

    def on_train_end(self) -> None:
        """The loop is over; `Rounds.finish`."""
        self.rounds.finish()

    def on_exception(self, exception: BaseException) -> None:
        """A validation may have been broken off."""
        self._pauses.close()


def _refuse_settings(trainer: Any, strategy: CodedStrategy) -> None:
    mine = strategy.rounds.cluster.session.task.model
    refuse(
        "Trainer",
        (strategy.lightning_module is not mine, "the module is another one than the task's"),
        (
            trainer.accumulate_grad_batches != 1,
            f"accumulate_grad_batches: found {trainer.accumulate_grad_batches}; take more partitions (code.partitions), "
            "which a worker computes one after the other",
        ),
        (
            trainer.precision != "32-true",
            f"precision: found {trainer.precision}; workers compute the loss: put torch.autocast (bfloat16) into "
            "training_step",
        ),
        (trainer.num_nodes * trainer.num_devices != 1, "devices, num_nodes: the master is one process with one device"),
        (trainer.overfit_batches, "overfit_batches: the workers read the data; give the task a smaller data set"),
    )
