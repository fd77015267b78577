"""`gcdist coco pictures`: what the detector of a run finds, drawn over images."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from gcdist.config import ConfigError, load_config
from gcdist.run.checkpoint import newest_checkpoint
from gcdist.run.session import load_user_task
from gcdist.tasks.coco import CocoImages, HeldOut
from gcdist.tasks.coco.pictures import save_pictures

coco = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@coco.callback()
def about() -> None:
    """COCO detection: look at what a run has learned."""


@coco.command("pictures")
def pictures(
    run: Annotated[Path, typer.Argument(metavar="RUNFOLDER", help="Folder of a run with a checkpoint.")],
    count: Annotated[int, typer.Option("--count", help="So many images, from the first on.")] = 8,
    split: Annotated[
        Literal["train", "val"], typer.Option(help="The images trained on, or the held-out ones.")
    ] = "val",
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
    if not (run / "config.toml").exists():
        raise ConfigError(f"coco pictures: {run} is no folder of a run: it has no config.toml")
    task = load_user_task(load_config(run / "config.toml"), run.resolve())
    held_out = task.evaluate
    if not isinstance(task.dataset, CocoImages) or not isinstance(held_out, HeldOut):
        raise ConfigError(f"coco pictures: the run in {run} is not one of the coco task")
    found = newest_checkpoint(run / "checkpoints", lambda line: print(f"gcdist: {line}", file=sys.stderr))
    if found is None:
        raise ConfigError(f"coco pictures: {run} has no checkpoint")
    try:
        task.model.load_state_dict(found.model)
    except RuntimeError as error:
        raise ConfigError(f"coco pictures: {found.path} does not fit the model: {error}") from None
    images = task.dataset if split == "train" else held_out.images
    files = save_pictures(task.model, images, out or run / "pictures", count, least)
    if as_json:
        typer.echo(json.dumps([str(path) for path in files]))
    else:
        for path in files:
            typer.echo(path)
