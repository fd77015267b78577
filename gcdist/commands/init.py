"""`gcdist init`: a task file, its settings and a launch line to begin a run of one's own model with."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from gcdist.commands.own_code import OwnCode, own_code
from gcdist.config import ConfigError

FILES = ("task.py", "config.toml", "launch.sh")
WORKERS_MOST = 8  # of the default: more processes are rather for several machines
_WIDTH = 29  # columns that comments of config.toml begin after
ADAPTERS = {
    "transformers": "transformers.Trainer: gcdist.integrations.hf",
    "lightning": "Lightning: gcdist.integrations.lightning",
    "pytorch_lightning": "Lightning: gcdist.integrations.lightning",
    "accelerate": "Accelerate: gcdist.integrations.accelerate",
}


def init(
    folder: Annotated[Path, typer.Argument(help="Where the files are written; made if it is not there.")] = Path(),
    workers: Annotated[
        int | None,
        typer.Option("-n", "--workers", help="Workers; without it one less than this machine's cores: 2 to 8."),
    ] = None,
) -> None:
    """Write a starter for your own model: task.py, config.toml, launch.sh. It runs as it stands, and never overwrites.

    It finds cores, a GPU and the models of the folder's Python files, and fills them in or names them in comments.

    Example: gcdist init my-run && cd my-run && gcdist simulate config.toml
    """
    count = usual_workers() if workers is None else workers
    if count < 1:
        raise ConfigError(f"init --workers: found {count}; should be 1 or more")
    found = own_code(folder)
    write_starter(folder, starter(count, found))
    where = "" if folder == Path() else f"cd {folder} && "
    typer.echo(f"written: {', '.join(str(folder / name) for name in FILES)}; they run as they stand:")
    typer.echo(f"  {where}gcdist simulate config.toml   # {count} workers on a virtual clock, in one process")
    typer.echo(f"  {where}sh launch.sh                  # a master and {count} workers as processes")
    for line in notes(found):
        typer.echo(line)


def usual_workers() -> int:
    """Workers beside the master on the cores that this process may use: 2 to 8."""
    return max(2, min(WORKERS_MOST, len(os.sched_getaffinity(0)) - 1))


def starter(workers: int, found: OwnCode, gpu: bool | None = None) -> dict[str, str]:
    """The files' texts by name.

    Args:
        workers: of the launch line and of the simulator.
        found: what the folder holds already: the comments say where it goes.
        gpu: whether workers should look for one; None: if this machine has an NVIDIA driver.
    """
    texts = {name: files("gcdist.commands.starter").joinpath(name).read_text(encoding="utf-8") for name in FILES}
    task = texts["task.py"]
    if (data := found.of("data set")) is not None:
        line = f"#    Yours, it seems: `from {Path(data.file).stem} import {data.name}`, and {data.call} in `build`.\n"
        task = task.replace("class Points(", line + "class Points(")
    if (model := found.of("model")) is not None:
        line = f"#    Yours, it seems: `from {Path(model.file).stem} import {model.name}`, and `return {model.call}`.\n"
        task = task.replace("def make_model(", line + "def make_model(")
    config = "".join(_filled(line, workers) for line in texts["config.toml"].splitlines(keepends=True))
    if Path("/proc/driver/nvidia/version").exists() if gpu is None else gpu:
        config = config.replace('device = "cpu"              # "auto": a', 'device = "auto"             # a')
    launch = texts["launch.sh"].replace("PROCESSES", str(workers + 1)).replace("WORKERS", str(workers))
    return {"task.py": task, "config.toml": config, "launch.sh": launch}


def _filled(line: str, workers: int) -> str:
    """A line of the settings with its numbers; its comment stays where the others are."""
    filled = line.replace("PARTITIONS", str(2 * workers)).replace("WORKERS", str(workers))
    if filled == line:
        return line
    setting, _, comment = filled.rpartition(" # ")
    return f"{setting.rstrip():<{_WIDTH - 1}}# {comment}"


def write_starter(folder: Path, texts: dict[str, str]) -> None:
    """Write the files, all or none.

    Raises:
        ConfigError: one of them is there already, or the folder does not take them.
    """
    there = [name for name in texts if os.path.lexists(folder / name)]
    if there:
        raise ConfigError(
            f"init: found {', '.join(str(folder / name) for name in there)}; nothing is overwritten: give another folder, "
            "as in gcdist init my-run"
        )
    written: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            with (folder / name).open("x", encoding="utf-8") as file:
                written.append(folder / name)
                file.write(text)
    except OSError as error:
        for path in written:
            path.unlink(missing_ok=True)
        raise ConfigError(f"init: {error.filename or folder} cannot be written: {error.strerror}") from None


def notes(found: OwnCode) -> list[str]:
    """Lines about what the folder's files hold."""
    lines = []
    for kind in ("model", "data set"):
        several = [f"{each.name} ({each.file}, line {each.line})" for each in found.classes if each.kind == kind]
        if several:
            more = f" and {len(several) - 3} more" if len(several) > 3 else ""
            lines.append(f"found {kind}: {', '.join(several[:3])}{more}; task.py says where it goes")
    if found.distributed:
        lines.append(
            f"found DistributedDataParallel in {found.distributed[0]}: docs/from-ddp.md changes ten lines of it"
        )
    adapters = {ADAPTERS[name]: None for name in found.trainers}
    lines += [f"found {adapter} keeps that trainer's loop at the master" for adapter in adapters]
    return lines
