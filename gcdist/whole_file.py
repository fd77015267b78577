"""Files that appear whole or not at all, whatever ends their writer."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write in place of ``path``: it gets that name at the end of the block, and goes if the block fails.

    What a killed writer left half is overwritten. A link at ``path`` is replaced itself, not what it leads to.

    Raises:
        OSError: it cannot be written, or a folder is in its place.
    """
    half = path.with_name(path.name + ".part")
    half.unlink(missing_ok=True)
    try:
        yield half
        if path.is_dir() and not path.is_symlink():
            raise OSError(errno.EISDIR, "is a folder", str(path))
        os.replace(half, path)
    except BaseException:
        with suppress(OSError):
            half.unlink()
        raise


def write_whole(path: Path, content: str | bytes, mode: int = 0o666, flush: bool = False) -> None:
    """Write a file that appears whole or not at all; text as UTF-8.

    Args:
        path: of the file; its folder is there.
        content: all of it.
        mode: permissions, of which the umask takes its part; nobody else reads a secret one, not even for a moment.
        flush: wait for the disk: the file is still there after a loss of power.

    Raises:
        OSError: it cannot be written, or a folder is in its place.
    """
    with replacing(path) as half, open(os.open(half, _NEW, mode), "wb") as file:
        file.write(content.encode(errors="replace") if isinstance(content, str) else content)
        file.flush()
        if flush:
            os.fsync(file.fileno())
