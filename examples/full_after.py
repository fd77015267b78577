"""A full training script with gcdist: validation, schedule, clipping, metrics, resuming. A master and 4 workers.

    gcdist launch local -n 4 -- python examples/full_after.py --epochs 10

examples/full_before.py and examples/full_after.py are one script before and after its conversion: docs/from-ddp.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import gcdist
from gcdist.tasks import digits


def load_data() -> tuple[TensorDataset, TensorDataset]:
    """Images and labels; every fifth image is held out for validation."""
    images, labels = (torch.from_numpy(array) for array in digits.arrays())
    held_out = torch.arange(len(labels)) % 5 == 0
    return TensorDataset(images[~held_out], labels[~held_out]), TensorDataset(images[held_out], labels[held_out])


@torch.no_grad()
def validate(model: nn.Module, data: TensorDataset) -> dict[str, float]:
    """Loss and accuracy on the images that were held out."""
    model.eval()
    images, labels = data.tensors
    logits = model(images)
    model.train()
    accuracy = (logits.argmax(1) == labels).float().mean()
    return {"loss": nn.functional.cross_entropy(logits, labels).item(), "accuracy": accuracy.item()}


def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and accuracy of one batch, at a worker."""
    images, labels = batch
    logits = model(images)
    accuracy = (logits.argmax(1) == labels).float().mean()
    return nn.functional.cross_entropy(logits, labels), {"accuracy": accuracy}


def main() -> None:
    """Train on all workers; the master validates, prints and saves after each epoch."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--folder", type=Path, default=Path("full-run"))
    options = parser.parse_args()
    torch.manual_seed(0)
    train_data, held_out = load_data()
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 10))
    task = gcdist.Task(model, train_data, loss_fn, batch_size=32, evaluate=lambda m: validate(m, held_out))
    config = gcdist.Config(code={"partitions": 4}, data={"sampling": "epochs"})
    cluster = gcdist.connect(task, config, resume=options.folder)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs * cluster.steps_per_epoch)
    cluster.track(optimizer=optimizer, schedule=schedule)
    for epoch, steps in cluster.epochs(options.epochs):
        for step in steps:
            info = step.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            if info.estimated:
                optimizer.step()
                schedule.step()
        score = cluster.evaluate()
        print(f"epoch {epoch + 1}: train {info.loss or 0.0:.3f} {info.metrics.get('accuracy', 0.0):.1%}", end=", ")
        print(f"held out {score['loss']:.3f} {score['accuracy']:.1%}, lr {schedule.get_last_lr()[0]:.2e}")
        cluster.save()
    print(f"test accuracy {cluster.evaluate()['accuracy']:.1%}")
    cluster.close()


if __name__ == "__main__":
    main()
