"""A run's folder at its start: a new one, or one whose run goes on from its newest checkpoint."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from gcdist.config import Config, ConfigError, load_config, setting_lines, shared_settings
from gcdist.master.port import Say
from gcdist.observe import RunFolder, refuse_links
from gcdist.protocol.messages import SampleSketch, ValueSketch
from gcdist.run.as_run import as_run, script, settings_text
from gcdist.run.checkpoint import Checkpoint, newest_checkpoint
from gcdist.run.session import Session

KEPT = ("name", "out")  # where the run is: it stays in its folder
FIXED = ("seed", "task.", "code.partitions", "data.")  # settings that a resumed run cannot change: what step t computes


def new_folder(session: Session, folder: Path | None) -> RunFolder:
    """The run's folder with its config: named by the settings, or by task, scheme and time."""
    config = session.config
    named = config.task.name if session.task.origin is not None else script()
    name = config.name or f"{Path(named).stem}-{session.code.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    path = folder or config.out / name
    stem, number = path, 2
    try:
        while config.name is None and folder is None and (path / "metrics.jsonl").exists():
            path, number = stem.with_name(f"{stem.name}-{number}"), number + 1
        run = RunFolder(path)
    except ValueError as error:
        raise ConfigError(f"name: {error}") from None
    except OSError as error:
        raise _unusable("out", path, error) from None
    run.write_config(settings_text(session))
    return run


def _unusable(what: str, path: Path, error: OSError) -> ConfigError:
    """A run folder that cannot be made or written, in one line."""
    return ConfigError(f"{what}: the run's folder {path} cannot be written: {error.strerror or error}")


def resumed_folder(session: Session, path: Path, say: Say) -> tuple[RunFolder, Checkpoint | None]:
    """The folder of a run that goes on, and its newest good checkpoint; None: it begins at step 0, with a line that says so.

    Settings that differ from the run's are one line. Nothing is changed before `take_up`.

    Raises:
        ConfigError: a setting that cannot change differs, or the data set.
    """
    if path.exists() and not path.is_dir():
        raise ConfigError(f"resume: {path} is no folder of a run")
    try:
        refuse_links(path)  # before anything in it is read
    except (OSError, ValueError) as error:
        raise ConfigError(f"resume: {error}") from None
    found = newest_checkpoint(path / "checkpoints", lambda line: say("warning", line))
    _compare(session, path, found is not None, say)
    if found is not None:
        samples = len(session.task.dataset)
        if found.state["samples"] != samples:
            raise ConfigError(
                f"task: the data set has {samples} samples; the run in {path} has {found.state['samples']}"
            )
        if (off := _other_data(session, found.state.get("data"))) is not None:
            raise ConfigError(f"task: other data than those of the run in {path}: {off}")
    try:
        run = RunFolder(path, resume=True, wait=lambda line: say("warning", line))
    except ValueError as error:
        raise ConfigError(f"resume: {error}") from None
    except OSError as error:
        raise _unusable("resume", path, error) from None
    if found is None:
        say("checkpoint", f"there is no checkpoint in {path}: the run begins at step 0")
    else:
        say("checkpoint", f"going on from {found.path.name}")
    return run, found


def take_up(run: RunFolder, session: Session, found: Checkpoint | None) -> None:
    """Make the folder the resumed run's: write its settings, and remove the lines of steps that will be trained again.

    Raises:
        ConfigError: the disk does not let them be removed.
    """
    run.write_config(settings_text(session))
    try:
        run.rewind(0 if found is None else found.step)
    except OSError as error:
        raise _unusable("resume", run.path, error) from None


def _compare(session: Session, path: Path, bound: bool, say: Say) -> None:
    """One line for the settings that differ; ConfigError for those that cannot while there is a checkpoint."""
    if not (path / "config.toml").exists():
        return
    before, config = load_config(path / "config.toml"), as_run(session)[0]
    was, now = setting_lines(before), setting_lines(config)
    changed = sorted(key for key in was.keys() | now.keys() if was.get(key) != now.get(key))
    if session.task.origin is None:  # what the script alone says, and its place
        changed = [key for key in changed if key not in ("task.name", "steps") and not key.startswith("optimizer.")]
    for key in changed:
        if bound and key.startswith(FIXED) and _is_shared(key, config, before):
            raise ConfigError(
                f"{key}: found {now.get(key, 'nothing')}; the run in {path} has {was.get(key, 'nothing')}, and a resumed "
                "run cannot change it"
            )
    if kept := [key for key in changed if key in KEPT]:
        say("settings", f"the run stays in {path}: {', '.join(kept)} would apply to a new run only")
    if used := [key for key in changed if key not in KEPT]:
        told = (f"{key} = {now.get(key, 'nothing')} (was {was.get(key, 'nothing')})" for key in used)
        say("settings", f"settings that differ from the run so far: {', '.join(told)}")


def data_state(session: Session) -> dict[str, Any]:
    """The data's part of a checkpoint: a hash of the cut into partitions, and sketches of some samples."""
    return {
        "cut": session.gradients.batches.cut,
        "looked": [[s.number, s.partition, [[v.kind, list(v.numbers)] for v in s.values]] for s in session.looked],
    }


def _other_data(session: Session, state: Any) -> str | None:
    """The difference between these data and the checkpoint's; None: no difference, or none recorded by an older version."""
    if state is None:
        return None
    now = {sample.number: sample for sample in session.looked}
    for number, partition, values in state["looked"]:
        then = SampleSketch(number, partition, tuple(ValueSketch(kind, tuple(numbers)) for kind, numbers in values))
        if number in now and (off := then.difference(now[number], "the run has")) is not None:
            return off
    return None if state["cut"] == session.gradients.batches.cut else "the same partition holds other samples"


def _is_shared(key: str, *configs: Config) -> bool:
    """Whether master and workers must have the same value of this setting."""
    return any(line.startswith(f"{key}=") for config in configs for line in shared_settings(config).splitlines())
