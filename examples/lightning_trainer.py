"""Lightning's `Trainer` over a master and 3 workers: handwritten digits.

    pip install 'gcdist[lightning]'
    gcdist launch local -n 3 -- python examples/lightning_trainer.py

The loop, its schedule, clipping, validation, logging and checkpoints are Lightning's, at the master: docs/trainers.md.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import gcdist
from gcdist import integrations
from gcdist.integrations import lightning
from gcdist.tasks import digits


class Digits(LightningModule):  # type: ignore[misc]
    """A small network for images of 8 x 8."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Runs at the workers; what it logs comes back as means over the partitions."""
        scores = self.net(batch[0])
        self.log("accuracy", (scores.argmax(1) == batch[1]).float().mean())
        return cross_entropy(scores, batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Runs at the master."""
        scores = self.net(batch[0])
        self.log("val_accuracy", (scores.argmax(1) == batch[1]).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> Any:
        """At the master alone."""
        optimizer = torch.optim.SGD(self.parameters(), lr=0.2, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]


class Losses(Callback):  # type: ignore[misc]
    """Keeps the loss of each step."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Lightning gives the step's loss in ``outputs``."""
        self.found.append(float(outputs["loss"]))


def loaders() -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Training data and held-out data: every fifth image."""
    images, labels = (torch.from_numpy(array) for array in digits.arrays())
    test = torch.arange(len(labels)) % 5 == 0
    train = DataLoader(TensorDataset(images[~test], labels[~test]), batch_size=16, shuffle=True)
    return train, DataLoader(TensorDataset(images[test], labels[test]), batch_size=360)


def make_module() -> Digits:
    """The same start values on every rank."""
    torch.manual_seed(0)
    return Digits()


def settings(sync: bool) -> gcdist.Config:
    """4-bit coded gradients; with ``sync`` every step waits for everybody, and nothing is rounded."""
    exact: dict[str, Any] = {
        "code": {"scheme": "sync", "partitions": 6},
        "quantizer": {"name": "float32", "bits": 32, "downlink": "float32"},
    }
    coded: dict[str, Any] = {"code": {"partitions": 6}, "quantizer": {"bits": 4}}
    usual: dict[str, Any] = {"data": {"sampling": "epochs"}, "checkpoint": {"keep": 0}}  # the trainer keeps its own
    return gcdist.Config(**usual, **(exact if sync else coded))


def main() -> None:
    """Train, validate after each epoch, say what was learned."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--sync", action="store_true")
    parser.add_argument("--out", default="runs/lightning")
    given = parser.parse_args()
    module, (train, held_out) = make_module(), loaders()
    with integrations.connect(lightning.task(module, train), settings(given.sync)) as cluster:  # workers serve in here
        losses = Losses()
        trainer = Trainer(
            strategy=lightning.CodedStrategy(cluster),
            accelerator="cpu",
            max_steps=given.steps,
            gradient_clip_val=1.0,
            callbacks=[losses],
            default_root_dir=given.out,
            log_every_n_steps=5,
            logger=False,
        )
        trainer.fit(module, train, held_out)
        (found,) = trainer.validate(module, held_out, verbose=False)
    print("losses", *(f"{loss:.6f}" for loss in losses.found))
    print(f"held out: {found['val_accuracy']:.1%}")


if __name__ == "__main__":
    main()
