"""One master for a run's folder: a lock that ends with its process, and a lease for disks without such locks."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from gcdist.observe.files import open_for_records

NAME = "lock"
BEAT_SECONDS = 5.0  # between two signs of life in the lease
LEASE_SECONDS = 20.0  # without one, a holder on another host counts as dead

_held: set[tuple[int, int]] = set()  # (device, inode): record locks do not exclude their own process


class LockedError(ValueError):
    """Another process writes into the run's folder; the text is one line."""


class FolderLock:
    """Holds ``lock`` in a run's folder until it is released, or its process dies.

    The kernel's record lock (fcntl) is bound to the process, not to its children, and NFS knows it too. On disks whose
    locks cover one host alone, a lease takes over: the file names host and process and changes every few seconds. A new
    master waits one lease for a holder on another host; the holder counts as dead if the file does not change.

    Args:
        folder: the run's.
        wait: called with a line before the wait for a lease.
        lease: seconds.

    Raises:
        LockedError: somebody else holds it.
        OSError: the file cannot be written.
    """

    def __init__(
        self, folder: Path, wait: Callable[[str], None] = lambda text: None, lease: float = LEASE_SECONDS
    ) -> None:
        self._over = threading.Event()
        self._using = threading.Lock()  # guards the descriptor: its number may be reused after a close
        self._process = os.getpid()
        self._beats = 0
        self._handle: int | None = open_for_records(folder / NAME)
        about = os.fstat(self._handle)
        self._key = (about.st_dev, about.st_ino)
        try:
            self._take(folder, wait, lease)
        except BaseException:
            if self._key not in _held:  # a close would release this process's own lock
                os.close(self._handle)
            self._handle = None
            raise
        _held.add(self._key)
        thread = threading.Thread(target=self._live, name="gcdist-lock", daemon=True)
        thread.start()

    def release(self) -> None:
        """Release the folder; idempotent."""
        if os.getpid() != self._process:  # in a fork: the lock belongs to the parent
            return
        self._over.set()
        with self._using:
            if self._handle is None:
                return
            _held.discard(self._key)
            with suppress(OSError):
                os.ftruncate(self._handle, 0)
            os.close(self._handle)
            self._handle = None

    def _take(self, folder: Path, wait: Callable[[str], None], lease: float) -> None:
        assert self._handle is not None
        if self._key in _held:
            raise LockedError(f"run folder {folder} is in use by this very process: close that run first")
        locked = False
        try:
            fcntl.lockf(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked = True
        except OSError as error:
            holder = _read(self._handle)
            if error.errno in (11, 13):  # EAGAIN, EACCES: held
                raise LockedError(f"run folder {folder} is in use by {_words(holder)}: end that one first") from None
            # a disk without locks: the lease alone
        before = _read(self._handle)
        if before and before.get("host") != socket.gethostname():
            wait(f"run folder {folder} was left in use by {_words(before)}: waiting {lease:g} s for a sign of life")
            until = time.monotonic() + lease
            while time.monotonic() < until:
                time.sleep(min(0.2, lease / 4))
                if _read(self._handle) != before:
                    raise LockedError(f"run folder {folder} is in use by {_words(before)}: end that one first")
        try:
            self._beat()
        except OSError:
            if not locked:  # a full disk: the record lock holds
                raise

    def _beat(self) -> None:
        self._beats += 1
        told = {
            "host": socket.gethostname(),
            "process": self._process,
            "beats": self._beats,
            "time": round(time.time()),
        }
        with self._using:
            if self._handle is not None:
                os.ftruncate(self._handle, 0)
                os.write(self._handle, (json.dumps(told) + "\n").encode())

    def _live(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            with suppress(OSError):  # a full disk: the record lock still holds
                self._beat()


def _read(handle: int) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        told = json.loads(os.pread(handle, 4096, 0))
        return told if isinstance(told, dict) else {}
    return {}


def _words(holder: dict[str, Any]) -> str:
    if not holder:
        return "another process"
    return f"process {holder.get('process')} on host {holder.get('host')}"
