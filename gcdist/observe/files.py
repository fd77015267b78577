"""Files of a run's folder that stay whole on any disk failure; no symbolic link is followed.

A disk that is full, gone or read-only never ends a run. Records wait in memory for the disk; if there are too many, the
oldest are left out, and one line, rarely repeated, says so (`Trouble`).
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

MOST_WAITING = 8 << 20  # bytes: of one file's waiting records; beyond it, the oldest are left out
AGAIN_SECONDS = 600.0  # between two lines about the same trouble
_OPEN = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a named pipe in place of a file must not block


class LinkError(ValueError):
    """A run's folder holds a symbolic link, a device, a socket or a pipe; the text is one line."""


def refuse_links(folder: Path) -> None:
    """Look at everything in a run's folder; the folder itself may be reached by a link.

    Raises:
        LinkError: there is a symbolic link, a device, a socket or a named pipe.
    """
    for path in _everything(folder):
        mode = path.lstat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            what = "a symbolic link" if stat.S_ISLNK(mode) else "neither a file nor a folder"
            raise LinkError(f"run folder {folder}: {path.relative_to(folder)} is {what}; none is followed: remove it")


def _everything(folder: Path) -> Iterator[Path]:
    with suppress(FileNotFoundError):
        for name in sorted(os.listdir(folder)):
            path = folder / name
            yield path
            if path.is_dir() and not path.is_symlink():
                yield from _everything(path)


def make_folder(path: Path) -> None:
    """A folder inside a run's folder; OSError if something else, or a link, stands there."""
    with suppress(FileExistsError):
        path.mkdir()
    if not stat.S_ISDIR(path.lstat().st_mode):
        raise OSError(errno.ENOTDIR, "is no folder", str(path))


def add_record(handle: int, record: bytes) -> None:
    """Add a record at the end of an open file; OSError, and the file is as it was."""
    size = os.fstat(handle).st_size
    try:
        if os.write(handle, record) != len(record):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
        with suppress(OSError):
            os.ftruncate(handle, size)
        raise


def cut_off(path: Path, size: int) -> None:
    """Let a file end behind its first ``size`` bytes; OSError."""
    handle = open_for_records(path)
    try:
        os.ftruncate(handle, size)
    finally:
        os.close(handle)


def open_for_records(path: Path) -> int:
    """A descriptor that adds to a file, made if it is not there; OSError, for a link or a pipe too."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | _OPEN, 0o666)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "is no plain file", str(path))
    return handle


class Trouble:
    """Failures of the disk, told in lines that come rarely.

    Args:
        say: takes a line.
        clock: monotonic seconds.
    """

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self.say = say
        self._clock = clock
        self._said_at = float("-inf")
        self._names: set[str] = set()  # files with waiting records
        self._left_out: dict[str, int] = {}  # lost records of each file

    def failed(self, name: str, error: OSError) -> None:
        """The disk refused a write to ``name``."""
        self._names.add(name)
        if self._clock() - self._said_at >= AGAIN_SECONDS:
            self._said_at = self._clock()
            why = error.strerror or str(error)
            self.say(
                f"{', '.join(sorted(self._names))}: not written ({why}); the run goes on, and what it writes waits in memory"
            )

    def left_out(self, name: str, count: int = 1) -> None:
        """Waiting records of ``name`` were left out, because there were too many."""
        self._left_out[name] = self._left_out.get(name, 0) + count

    def wrote(self, name: str) -> None:
        """The disk takes ``name`` again."""
        if name not in self._names:
            return
        self._names.discard(name)
        if not self._names:
            self._said_at = float("-inf")
            missing = ", ".join(f"{count} records of {each}" for each, count in sorted(self._left_out.items()))
            self._left_out.clear()
            self.say(f"the disk takes the run's files again; missing for good: {missing or 'nothing'}")


class GrowingFile:
    """A file that grows by whole records; ``write`` never raises.

    Args:
        path: of the file; bytes after its last ``end`` are cut off at the opening.
        trouble: gets the failures of the disk.
        end: the last bytes of a record.
        most: bytes that may wait in memory for the disk.

    Raises:
        OSError: it cannot be opened now.
    """

    def __init__(self, path: Path, trouble: Trouble, end: bytes = b"\n", most: int = MOST_WAITING) -> None:
        self.path = path
        self.closed = False
        self.must_be_ours: Callable[[], None] = lambda: None  # OSError: the path leads into another run's folder
        self._held = False
        self._trouble = trouble
        self._end = end
        self._most = most
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._handle: int | None = None
        self._open()

    @property
    def size(self) -> int:
        """Bytes in the file."""
        if self._handle is None:
            return 0
        about = os.fstat(self._handle)
        return about.st_size if about.st_nlink else 0

    def write(self, record: bytes) -> int:
        """Add a record, behind those that wait; its length."""
        if self.closed:
            return len(record)
        self._waiting.append(record)
        self._bytes += len(record)
        self.flush()
        while self._bytes > self._most:
            self._bytes -= len(self._waiting.popleft())
            self._trouble.left_out(self.path.name)
        return len(record)

    def flush(self) -> None:
        """Write the waiting records, as far as the disk takes them."""
        if self._held:
            return
        try:
            while self._waiting:
                if self._handle is None or not os.fstat(self._handle).st_nlink:  # it was deleted
                    self.let_go()
                    self.must_be_ours()
                    self._open()
                assert self._handle is not None
                add_record(self._handle, self._waiting[0])
                self._bytes -= len(self._waiting.popleft())
        except OSError as error:
            self._trouble.failed(self.path.name, error)
        else:
            self._trouble.wrote(self.path.name)

    def hold(self) -> None:
        """Write nothing until `go_on`, because the path leads to another folder."""
        self._held = True
        self.let_go()

    def go_on(self) -> None:
        """Write to the path, as it is now."""
        self._held = False

    def let_go(self) -> None:
        """Close the descriptor; the next record opens the path again."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def close(self) -> None:
        """Write the waiting records, if the disk takes them, and close; idempotent."""
        if not self.closed:
            self.flush()
            self.closed = True
            self.let_go()

    def _open(self) -> None:
        handle = open_for_records(self.path)
        try:
            os.ftruncate(handle, _whole(handle, self._end))
        except OSError:
            os.close(handle)
            raise
        self._handle = handle


def _whole(handle: int, end: bytes) -> int:
    """Bytes of a file up to its last ``end``, that included."""
    at = size = os.fstat(handle).st_size
    tail = b""
    while at > 0:
        begin = max(0, at - (1 << 16))
        tail = os.pread(handle, at - begin, begin) + tail[: len(end)]
        found = tail.rfind(end)
        if found >= 0:
            return begin + found + len(end)
        at = begin
    return 0 if size else size
