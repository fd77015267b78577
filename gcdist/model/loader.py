"""Reading ahead: one process beside each worker reads the batches that come next.

The process is forked, before the worker has links and their threads. Spawning instead would run the user's script again from
its start, need a data set that can be pickled, and hold it in memory twice. A fork after torch has run in several threads is
safe as long as the child does not: it reads with one.

torch's DataLoader is not used: it waits for ever for a process that was killed in the middle of a message, unless its own
handler of SIGCHLD may raise in whatever the worker is doing at that moment. Here a pipe whose other end is gone says so.
"""

from __future__ import annotations

import errno
import itertools
import multiprocessing
import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from ctypes import c_int64
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from queue import SimpleQueue
from time import perf_counter
from typing import Any

import torch

from gcdist.model.batch_pickles import pickled
from gcdist.model.batches import Batches, Fetched, ReadError, story

USED_UP = (
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.ENOSPC,
)  # of this process or machine; else the other one is gone
WITHOUT = "batches are read without it from now on (data.prefetch)"
END_SECONDS = 1.0  # seconds that a closed loader has to end by itself; then it is terminated


class Loader:
    """Batches read by another process, ``ahead`` of them at most: equal to those that ``batches`` itself gives.

    `expect` says which ones come next. Anything else may be asked for at any time: what was read in vain is dropped, and
    what need not be read any more is not. If the process dies, one line is said, and batches are read here from then on. It
    ends with the process that made it, however that one ends.

    Args:
        batches: the same in both processes.
        ahead: >= 1; batches in memory on top of the one that `batch` gave last.
        say: takes the line.
    """

    def __init__(self, batches: Batches, ahead: int, say: Callable[[str], None]) -> None:
        self._batches = batches
        self._ahead = ahead
        self._say = say
        self._coming: Iterator[tuple[int, int]] = iter(())
        self._partitions: tuple[int, ...] = ()
        self._wanted: deque[tuple[int, int]] = deque()  # asked for, and not dropped
        self._owed = 0  # answers to come, dropped ones too
        self._asked = 0  # requests made so far: the number of the next one
        context = multiprocessing.get_context("fork")
        self._first: c_int64 = context.RawValue(c_int64, 0)  # requests below this number need not be read
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, self._pipe, batches, self._first), name="gcdist-loader", daemon=True
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # python 3.12 warns of forks beside other threads
            self._process.start()
        theirs.close()
        self._open = True

    @property
    def pid(self) -> int | None:
        """The process's number; None once batches are read in this process."""
        return self._process.pid if self._open else None

    def expect(self, step: int, partitions: tuple[int, ...]) -> None:
        """These partitions of ``step`` come next, and then the same ones of each step after it."""
        if partitions != self._partitions:
            self._partitions = partitions
            self._wanted.clear()

    def batch(self, step: int, j: int) -> Fetched:
        """The batch of partition ``j`` in ``step``, with the seconds waited for it; raises ReadError."""
        began = perf_counter()
        if self._open:
            try:
                found = self._fetch(step, j)
            except (EOFError, OSError, RuntimeError) as error:  # RuntimeError: torch cannot open what was shared
                used_up = isinstance(error, RuntimeError) or getattr(error, "errno", None) in USED_UP
                self._give_up(error if used_up else None)
            else:
                if isinstance(found, ReadError):
                    raise found
                return found._replace(seconds=perf_counter() - began)
        found = self._batches.batch(step, j)
        return found._replace(seconds=perf_counter() - began)

    def close(self) -> None:
        """End the process; idempotent."""
        self._open = False
        self._pipe.close()
        self._process.join(END_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _fetch(self, step: int, j: int) -> Fetched | ReadError:
        while self._wanted and self._wanted[0] != (step, j):
            self._wanted.popleft()
        self._first.value = self._asked - len(self._wanted)
        while self._owed > len(self._wanted):  # first, so that dropped batches do not add to those asked for now
            self._answer()
        if not self._wanted:
            self._coming = self._from(step, j)
            self._ask()
        self._wanted.popleft()
        found: Fetched | ReadError = self._answer()
        self._ask()
        return found

    def _from(self, step: int, j: int) -> Iterator[tuple[int, int]]:
        """The batches expected from (step, j) on; a partition that was not announced stands alone."""
        if j not in self._partitions:
            yield step, j
            return
        begin = self._partitions.index(j)
        for t in itertools.count(step):
            for partition in self._partitions[begin:]:
                yield t, partition
            begin = 0

    def _ask(self) -> None:
        while len(self._wanted) < self._ahead:
            request = next(self._coming, None)
            if request is None:
                return
            self._pipe.send((self._asked, *request))
            self._wanted.append(request)
            self._asked += 1
            self._owed += 1

    def _answer(self) -> Any:
        self._owed -= 1
        return self._pipe.recv()

    def _give_up(self, error: Exception | None) -> None:
        """``error``: why a batch could not be taken; None: the process is gone."""
        self.close()
        if error is not None:
            why = str(error).strip().splitlines()[0]
            self._say(f"a batch could not be taken from the loader process ({why}): {WITHOUT}")
            return
        code = self._process.exitcode
        how = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        self._say(f"the loader process ended ({how}): {WITHOUT}")


def _serve(pipe: Connection, theirs: Connection, batches: Batches, first: c_int64) -> None:
    """The loader process: answers requests in order until the other end of the pipe is gone."""
    theirs.close()  # with a copy of the worker's end here, the pipe would outlive the worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the worker says when this one ends
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    answers: SimpleQueue[Any] = SimpleQueue()
    # a thread of its own: a full pipe must not keep this one from reading ahead
    threading.Thread(target=_send, args=(pipe, answers), daemon=True).start()
    with suppress(EOFError, OSError):
        while True:
            number, step, j = pipe.recv()
            answers.put(_answer(batches, step, j) if number >= first.value else ForkingPickler.dumps(None))


def _answer(batches: Batches, step: int, j: int) -> Any:
    """The pickled batch, large tensors in shared memory; or the pickled ReadError."""
    try:
        found = batches.batch(step, j)
    except ReadError as error:
        return ForkingPickler.dumps(error)
    try:
        return pickled(found)
    except Exception as error:
        text = story(error, step, j, found.indices)
        return ForkingPickler.dumps(
            ReadError(found.indices, f"a batch cannot leave the loader process (data.prefetch = 0 has none): {text}")
        )


def _send(pipe: Connection, answers: SimpleQueue[Any]) -> None:
    with suppress(OSError):
        while True:
            pipe.send_bytes(answers.get())
