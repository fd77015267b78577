"""`gcdist coco`: what the detector of a run finds, drawn over images, or as a file of results."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer
from torch import nn

from gcdist.config import ConfigError, load_config
from gcdist.run.checkpoint import newest_checkpoint
from gcdist.run.session import load_user_task
from gcdist.tasks.coco import CocoImages, HeldOut, average_precision, detections
from gcdist.tasks.coco.pictures import save_pictures
from gcdist.tasks.coco.task import HELD_OUT_BATCH

RunArgument: TypeAlias = Annotated[Path, typer.Argument(metavar="RUNFOLDER", help="Folder of a run with a checkpoint.")]
Split: TypeAlias = Annotated[
    Literal["train", "val"], typer.Option("--split", help="The images trained on, or the held-out ones.")
]
coco = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@coco.callback()
def about() -> None:
    """COCO detection: look at what a run has learned."""


@coco.command("pictures")
def pictures(
    run: RunArgument,
    count: Annotated[int, typer.Option("--count", help="So many images, from the first on.")] = 8,
    split: Split = "val",
    least: Annotated[float, typer.Option(help="Draw what has this score or more.")] = 0.3,
    out: Annotated[Path | None, typer.Option(help="Folder of the PNG files; by default RUNFOLDER/pictures.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the files as JSON.")] = False,
) -> None:
    """Draw boxes over images: found ones in colours with name and score, true ones thin and white.

    Example: gcdist coco pictures runs/first --split train --count 12
    """
    for name, value, low, high in (("--count", count, 1, 1e6), ("--least", least, 0, 1)):
        if not low <= value <= high:
            raise ConfigError(f"coco pictures {name}: found {value}; should be {low:g} to {high:g}")
    model, images = _learned("coco pictures", run, split)
    files = save_pictures(model, images, out or run / "pictures", count, least)
    if as_json:
        typer.echo(json.dumps([str(path) for path in files]))
    else:
        for path in files:
            typer.echo(path)


@coco.command("results")
def results(
    run: RunArgument,
    split: Split = "val",
    out: Annotated[
        Path | None, typer.Option(help="The file; by default RUNFOLDER/results-train.json or results-val.json.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print file and metrics as JSON.")] = False,
) -> None:
    """Write what the detector finds in COCO's results format, by the data set's own ids, and its average precision.

    The file is what pycocotools' ``loadRes`` reads. The images are those that the run uses.

    Example: gcdist coco results runs/first
    """
    model, images = _learned("coco results", run, split)
    path = out or run / f"results-{split}.json"
    rows, found = HeldOut(images, HELD_OUT_BATCH).found(model)
    metrics = average_precision(images.index, rows, found, images.labels)
    try:
        path.write_text(json.dumps(detections(images.index, rows, found, images.labels)), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"coco results --out: {path} cannot be written: {error.strerror}") from None
    if as_json:
        typer.echo(json.dumps({"file": str(path), "images": len(rows), **metrics}))
    else:
        numbers = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        typer.echo(f"{path}: detections in {len(rows)} images; {numbers}")


def _learned(what: str, run: Path, split: str) -> tuple[nn.Module, CocoImages]:
    """The detector of the run's newest checkpoint, and the images of a split; ConfigError."""
    if not (run / "config.toml").exists():
        raise ConfigError(f"{what}: {run} is no folder of a run: it has no config.toml")
    task = load_user_task(load_config(run / "config.toml"), run.resolve())
    held_out = task.evaluate
    if not isinstance(task.dataset, CocoImages) or not isinstance(held_out, HeldOut):
        raise ConfigError(f"{what}: the run in {run} is not one of the coco task")
    found = newest_checkpoint(run / "checkpoints", lambda line: print(f"gcdist: {line}", file=sys.stderr))
    if found is None:
        raise ConfigError(f"{what}: {run} has no checkpoint")
    try:
        task.model.load_state_dict(found.model)
    except RuntimeError as error:
        raise ConfigError(f"{what}: {found.path} does not fit the model: {error}") from None
    return task.model, task.dataset if split == "train" else held_out.images
