"""A cell by real processes: forked from one process with all imports, so that their start takes no time.

Each rank is a process with links over the loopback or through namespaces; only the start is shared.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from gcdist.api import connect
from gcdist.bench.cells import Cell, Outcome, read_outcome, write_outcome
from gcdist.bench.ddp import ddp_rank
from gcdist.bench.loop import train
from gcdist.bench.network import INTERFACE, ThinLinks
from gcdist.bench.peers import ENGINES, peer_rank
from gcdist.bench.problems import get_problem

STARTING = 90.0  # seconds for processes to find each other, beyond the budget
ENDING = 10.0  # seconds for workers to end once the master has
ADDRESS = "127.0.0.1"
_CLONE_NEWNET = 0x40000000
Pool = multiprocessing.context.BaseContext


def forkserver() -> Pool:
    """The context that forks the processes."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("PYTHONSAFEPATH", "1")  # else the server imports modules of its start folder
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["gcdist.bench.preloaded"])
    return context


def end_with_benchmark() -> None:
    """End this child process when the benchmark's process ends in any way."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        wait([parent.sentinel])
        if os.getpgid(0) == os.getpid():
            os.killpg(0, signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=follow, name="gcdist-bench-parent", daemon=True).start()


def run_cell(context: Pool, cell: Cell, path: Path, links: ThinLinks | None = None) -> Outcome:
    """Run it with one process a rank; the outcome is written to ``path``, the ranks' lines to ``path``'s ``.log``.

    Args:
        links: hosts of their own for the ranks; None: the loopback.
    """
    world = cell.workers + (cell.what.engine != "ddp")  # a master, or a place where peers meet
    log = path.with_suffix(".log")
    path.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    addresses = [ADDRESS if links is None else links.address(rank) for rank in range(world)]
    with socket.socket() as reserved:  # bound and not listening: the system gives the port to no other process
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind((ADDRESS, 0))
        port = reserved.getsockname()[1]
        ranks = [
            context.Process(  # type: ignore[attr-defined]
                target=_rank, args=(rank, port, links and links.name(rank), addresses, cell, path, log)
            )
            for rank in range(world)
        ]
        try:
            for process in ranks:
                process.start()
            outcome = _await(ranks, cell, path, log)
        finally:
            _end(ranks)
    return outcome


def _await(ranks: Sequence[BaseProcess], cell: Cell, path: Path, log: Path) -> Outcome:
    ranks[0].join(cell.budget + STARTING)
    if path.exists():
        return read_outcome(path)[1]
    if ranks[0].is_alive():
        outcome = Outcome("budget", why="a step did not end")
    else:
        last = log.read_text(errors="replace").strip().splitlines()[-1:] if log.exists() else []
        outcome = Outcome("failed", why=": ".join([f"rank 0 ended with {ranks[0].exitcode}", *last])[:300])
    write_outcome(path, cell, outcome)
    return outcome


def _end(ranks: Sequence[BaseProcess]) -> None:
    until = time.monotonic() + ENDING
    for process in ranks:
        if process.pid is None:
            continue
        process.join(max(0.0, until - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # of a rank that leads a group of processes
        process.close()


def _rank(rank: int, port: int, space: str | None, addresses: Sequence[str], cell: Cell, path: Path, log: Path) -> None:
    end_with_benchmark()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the benchmark takes Ctrl-C and ends its ranks
    with open(log, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if space:
        _enter(space)
        os.environ["GLOO_SOCKET_IFNAME"] = INTERFACE  # else gloo takes the address of this machine's name: the loopback
    os.environ |= {"MASTER_ADDR": addresses[0], "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(len(addresses))}
    try:
        engine = cell.what.engine
        if engine == "ddp":
            outcome = ddp_rank(rank, cell)
        elif engine == "gcdist":
            outcome = _gcdist_rank(rank, cell, path.with_suffix(".run"))
        else:
            os.setpgid(0, 0)  # so that all that the other project starts ends with it
            outcome = peer_rank(rank, cell, addresses[rank])
        if outcome is not None:
            write_outcome(path, cell, outcome)
    except Exception:
        traceback.print_exc()
        raise
    finally:
        sys.stderr.flush()
    if engine in ENGINES:
        os.killpg(0, signal.SIGKILL)  # with the processes that the other project has started
    elif engine == "ddp":
        os._exit(0)  # a group with a dead peer cannot be taken down in order


def _gcdist_rank(rank: int, cell: Cell, folder: Path) -> Outcome | None:
    problem, config = get_problem(cell.problem), cell.config()
    task = problem.make(cell.seed)
    if rank == 0:
        shutil.rmtree(folder, ignore_errors=True)
    with connect(task, config, folder=folder, on_worker="return", show=False) as cluster:
        if rank > 0:
            return None
        return train(cluster, problem, task, cell)


def _enter(space: str) -> None:
    """Go into a network namespace, before any socket is made."""
    with open(f"/run/netns/{space}", "rb") as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter the network namespace {space}")
