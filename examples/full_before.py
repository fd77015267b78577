"""A full training script with DistributedDataParallel: validation, schedule, clipping, metrics, resuming. 4 processes.

    torchrun --standalone --nproc-per-node=4 examples/full_before.py --epochs 10

examples/full_before.py and examples/full_after.py are one script before and after its conversion: docs/from-ddp.md.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

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


def mean(value: Tensor) -> float:
    """The mean over all ranks."""
    dist.all_reduce(value)
    return float(value) / dist.get_world_size()


def main() -> None:
    """Train on all ranks; rank 0 validates, prints and saves after each epoch."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--folder", type=Path, default=Path("full-run"))
    options = parser.parse_args()
    torch.manual_seed(0)
    train_data, held_out = load_data()
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 10))
    rank = int(os.environ["RANK"])
    dist.init_process_group("gloo")
    wrapped = DistributedDataParallel(model)
    sampler: DistributedSampler[object] = DistributedSampler(train_data)
    loader = DataLoader(train_data, batch_size=32, sampler=sampler)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs * len(loader))
    first, checkpoint = 0, options.folder / "last.pt"
    if checkpoint.exists():
        kept = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"])
        schedule.load_state_dict(kept["schedule"])
        first = kept["epoch"]
    for epoch in range(first, options.epochs):
        sampler.set_epoch(epoch)
        for images, labels in loader:
            optimizer.zero_grad()
            logits = wrapped(images)
            loss = nn.functional.cross_entropy(logits, labels)
            accuracy = (logits.argmax(1) == labels).float().mean()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        seen = {"loss": mean(loss.detach()), "accuracy": mean(accuracy)}
        if rank == 0:
            score = validate(model, held_out)
            print(f"epoch {epoch + 1}: train {seen['loss']:.3f} {seen['accuracy']:.1%}", end=", ")
            print(f"held out {score['loss']:.3f} {score['accuracy']:.1%}, lr {schedule.get_last_lr()[0]:.2e}")
            options.folder.mkdir(exist_ok=True)
            parts = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save({**parts, "schedule": schedule.state_dict(), "epoch": epoch + 1}, checkpoint)
    if rank == 0:
        print(f"test accuracy {validate(model, held_out)['accuracy']:.1%}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
