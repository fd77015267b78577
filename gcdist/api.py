"""The Python API: the same script on every rank, or on a virtual clock."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial, wraps
from itertools import count
from pathlib import Path
from typing import Any, Literal, NoReturn, ParamSpec

from gcdist.config import Config, ConfigError, fewer_partitions, floor_warnings, secret_warnings
from gcdist.exchange.data_look import look
from gcdist.exchange.kernel_cache import warm_kernels
from gcdist.exchange.planes import make_plane
from gcdist.exchange.setup import Setup
from gcdist.last_words import leave
from gcdist.master.main import real_master
from gcdist.master.port import Say
from gcdist.memory import cycles_sought_seldom, keep_freed_memory, objects_set_aside
from gcdist.observe import RunFolder, ScriptProgress, say_to_stderr
from gcdist.run.checkpoint import Checkpoint
from gcdist.run.cluster import Cluster, Step
from gcdist.run.resume import new_folder, resumed_folder, take_up
from gcdist.run.session import Session
from gcdist.simulator.quiescence import Quiescence
from gcdist.simulator.world import simulated
from gcdist.tasks import Task
from gcdist.transport import (
    INTERFACE,
    ChannelError,
    JoinError,
    interface_address,
)
from gcdist.worker.main import serve

P = ParamSpec("P")
_runs = count(1)  # of this process


class WorkerDone:
    """What `connect` gives a worker with ``on_worker="return"`` once it has been released: a cluster without steps."""

    def __init__(self, code: int, reason: str) -> None:
        self.code = code
        self.reason = reason

    def steps(self, count: int) -> Iterator[Step]:
        """Nothing: this process was a worker."""
        return iter(())

    def epochs(self, count: int) -> Iterator[tuple[int, Iterator[Step]]]:
        """Nothing: this process was a worker."""
        return iter(())

    def track(self, **parts: object) -> None:
        """Nothing: the master keeps them."""

    def save(self) -> None:
        """Nothing: the master writes checkpoints."""

    def evaluate(self, fn: object = None) -> dict[str, float]:
        """Nothing: the master evaluates."""
        return {}

    def __enter__(self) -> WorkerDone:
        return self

    def __exit__(self, *about: object) -> None:
        return None


def _leaving_word(begin: Callable[P, Cluster]) -> Callable[P, Cluster]:
    """The same function; a mistake that it raises is also the process's last word."""

    @wraps(begin)
    def call(*given: P.args, **named: P.kwargs) -> Cluster:
        try:
            return begin(*given, **named)
        except ConfigError as error:
            leave("mistake", str(error))
            raise

    return call


@_leaving_word
def connect(
    task: Task,
    config: Config | Mapping[str, Any] | None = None,
    *,
    folder: str | Path | None = None,
    say: Say = say_to_stderr,
    on_worker: Literal["exit", "return"] = "exit",
    resume: bool | str | Path = False,
    show: bool | None = None,
) -> Cluster:
    """Join the run that this process was started for.

    Rank 0 becomes the master and gets its `Cluster`. Every other rank serves as a worker inside this call and then ends its
    process; with ``on_worker="return"`` (tests, notebooks) it gets a `WorkerDone` instead: a cluster without steps.

    Args:
        task: model, data set and loss: the same on every rank.
        config: the settings, or a dict of them: the same on every rank.
        folder: where the master writes the run; by default a new folder under ``config.out``.
        say: takes the master's log lines (kind, text).
        on_worker: what becomes of a worker when it is released.
        resume: folder of the run that goes on at its newest good checkpoint, at step 0 if it has none; True: ``folder``, or
            the one that ``config.name`` names. Model and what is tracked get their states back in place; `Cluster.steps`
            says what its count means then. Seed, task and number of partitions must be the run's.
        show: the run's folder, some twenty lines of progress and the summary, on the master's standard error; None: unless
            ``say`` is given.

    Raises:
        ConfigError: settings that do not fit, or not the resumed run; the master of another run; RANK, WORLD_SIZE,
            MASTER_ADDR or MASTER_PORT missing (start with torchrun).
    """
    config = _settings(config)
    rank, world = _place()
    keep_freed_memory()
    if world < 2:
        raise ConfigError("WORLD_SIZE: found 1; a master and at least one worker are needed (or use gcdist.simulate)")
    setup = Setup.of(task, config, world - 1, own=True) if rank > 0 else Session.build(task, config, world - 1)
    warm_kernels(setup.quantizer)
    seen = look(setup, rank - 1 if rank else None)  # it forks: before there are links and their threads
    setup.looked.extend(seen.samples)
    setup = replace(setup, run=next(_runs))
    cluster_settings = setup.config.cluster
    if cluster_settings.interface:
        os.environ.setdefault(INTERFACE, cluster_settings.interface)
    try:
        if name := os.environ.get(INTERFACE):
            interface_address(name)  # a wrong name would look like a master that does not come
        plane = make_plane(cluster_settings, rank)
        if rank > 0:
            ended = serve(setup, plane, rank)
            if on_worker == "return":
                return WorkerDone(ended.code, ended.reason)  # type: ignore[return-value]
            _leave(rank, ended.code, ended.reason)
        assert isinstance(setup, Session)
        session = setup
        run, log, found = _open(session, folder, resume, say)
        if seen.line:
            log("data", seen.line)
        for kind, text in plane.notes():
            log(kind, text)
        for text in secret_warnings(cluster_settings.secret_file):
            log("warning", text)
        for line in floor_warnings(session.config, session.workers, os.cpu_count() or 1):
            log("warning", line)
        _say_partitions(config, session, log)
        driver, close = real_master(session, plane, log, worker_log=run.logs.add)
    except (JoinError, ChannelError) as error:
        raise ConfigError(str(error)) from None
    try:
        cluster = Cluster(session, driver, run, on_close=close, resumed=found)
        if resume is not False:
            take_up(run, session, found)
    except BaseException:
        driver.stop("the master could not start")
        close()
        run.close()
        raise
    cluster.again = _again(resume, run.path)
    _show(cluster, show, say)
    leave("run", f"its run folder is {run.path}; {cluster.again}")
    at_exit = partial(_close_at_exit, cluster)  # for scripts without a with block; closing twice does nothing
    atexit.register(at_exit)
    cluster.on_closed = lambda: atexit.unregister(at_exit)  # a process may have many runs
    return cluster


def simulate(
    task: Task,
    config: Config | Mapping[str, Any],
    *,
    folder: str | Path | None = None,
    say: Say = say_to_stderr,
    resume: bool | str | Path = False,
    show: bool | None = None,
) -> Cluster:
    """The same run on a virtual clock, in this process: real gradients, simulated workers, delays and network.

    The number of workers is ``config.cluster.workers``; ``show`` is as for `connect`. A resumed run (``resume``: as for
    `connect`) goes on to the same numbers, to the last bit, as one that was not interrupted.

    Raises:
        ConfigError: settings that do not fit.
    """
    config = _settings(config)
    if config.cluster.workers is None:
        raise ConfigError("cluster.workers: missing; a simulated run needs to know how many there are")
    session = Session.build(task, config, config.cluster.workers)
    run, log, found = _open(session, folder, resume, say)
    _say_partitions(config, session, log)
    driver, network = simulated(session, log)
    aside = ExitStack()
    try:
        # thousands of workers make and drop objects by the million: looking for cycles among all those that were there
        # before takes a sixth of the time
        aside.enter_context(objects_set_aside())
        aside.enter_context(cycles_sought_seldom())
        standstill = Quiescence(driver, network)
        cluster = Cluster(session, driver, run, on_close=aside.close, resumed=found, standstill=standstill)
        if resume is not False:
            take_up(run, session, found)
    except BaseException:
        aside.close()
        run.close()
        raise
    cluster.again = _again(resume, run.path)
    _show(cluster, show, say, virtual=True)
    return cluster


def _settings(config: Config | Mapping[str, Any] | None) -> Config:
    return config if isinstance(config, Config) else Config(config)


def _show(cluster: Cluster, show: bool | None, say: Say, virtual: bool = False) -> None:
    """What a script's user sees of a run while it goes."""
    if say is say_to_stderr if show is None else show:
        cluster.progress = ScriptProgress(virtual=virtual)
        cluster.progress.begin(cluster.folder.path)
        cluster.observe(cluster.progress)


def _again(resume: bool | str | Path, path: Path) -> str:
    """How a script's run goes on after an early end."""
    return "the same command goes on" if resume is not False else f"it goes on with resume={str(path)!r} in the script"


def _close_at_exit(cluster: Cluster) -> None:
    error = getattr(sys, "last_value", None)  # what Python has just printed
    cluster.__exit__(None if error is None else type(error), error, None)


def _say_partitions(config: Config, session: Session, log: Say) -> None:
    line = fewer_partitions(config, session.workers, len(session.task.dataset))
    if line:
        log("settings", line)


def _place() -> tuple[int, int]:
    found = {name: os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE")}
    for name, value in found.items():
        if not value.isdecimal():
            raise ConfigError(
                f"{name}: found {value!r} in the environment; start with torchrun (torchrun --standalone "
                "--nproc-per-node=9 script.py, or --no-python gcdist train FILE.toml), or simulate"
            )
    return int(found["RANK"]), int(found["WORLD_SIZE"])


def _open(
    session: Session, folder: str | Path | None, resume: bool | str | Path, say: Say
) -> tuple[RunFolder, Say, Checkpoint | None]:
    """The run's folder, where its log lines go, and the checkpoint that it goes on from."""
    given = Path(folder) if folder else None
    if resume is False:
        run = new_folder(session, given)
        return run, _into(run, say), None
    name = session.config.name
    path = (given or (session.config.out / name if name else None)) if resume is True else Path(resume)
    if path is None:
        raise ConfigError("resume: which run? give its folder, or set name")
    lines: list[tuple[str, str]] = []
    run, found = resumed_folder(session, path, lambda kind, text: lines.append((kind, text)))
    log = _into(run, say)
    for kind, text in lines:
        log(kind, text)
    return run, log, found


def _into(run: RunFolder, say: Say) -> Say:
    """Log lines go to the caller and into the run's events."""

    def both(kind: str, text: str) -> None:
        run.event(kind, text)
        first, *more = text.splitlines() or [""]
        if kind == "error" and more:  # if it ends the run, it is shown then; all of it is where it can be looked up
            say(kind, f"{first}; all of it is in {run.path / 'events.jsonl'}")
        else:
            say(kind, text)

    run.on_trouble = partial(both, "disk")
    return both


def _leave(rank: int, code: int, reason: str) -> NoReturn:
    if code:
        leave("refused", reason)
        print(f"gcdist worker rank{rank}: {reason}", file=sys.stderr, flush=True)
    sys.exit(code)
