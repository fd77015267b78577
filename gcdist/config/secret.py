"""The run's shared secret: from a file or the environment, and whether it is one."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from gcdist.config.errors import ConfigError

VARIABLE = "GCDIST_SECRET"
LEAST_CHARACTERS = 16  # a shorter secret can be guessed by trial from one recorded handshake
MOST_CHARACTERS = 4096
_MAKE = "openssl rand -hex 32 makes one"


def shared_secret(file: Path | None) -> str | None:
    """What ``file`` holds, else the environment's GCDIST_SECRET; None if there is neither.

    White space around it does not count. ConfigError if it cannot be read, is blank, too short or too long.
    """
    if file is None:
        text = os.environ.get(VARIABLE)
        return None if text is None else _checked(VARIABLE, text)
    where = f"cluster.secret_file: {file}"
    try:
        if file.stat().st_size > 4 * MOST_CHARACTERS:
            raise ConfigError(f"{where} has {file.stat().st_size} bytes; a secret has at most {MOST_CHARACTERS}")
        return _checked(where, file.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(f"{where} cannot be read: {why}") from None


def _checked(where: str, text: str) -> str:
    secret = text.strip()
    try:
        secret.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{where} cannot be read: it is not text") from None
    if not secret:
        raise ConfigError(f"{where} is empty; {_MAKE}")
    if not LEAST_CHARACTERS <= len(secret) <= MOST_CHARACTERS:
        raise ConfigError(
            f"{where} has {len(secret)} characters; a secret has {LEAST_CHARACTERS} to {MOST_CHARACTERS}: {_MAKE}"
        )
    return secret


def secret_warnings(file: Path | None) -> list[str]:
    """A line if other users of this machine can read the file."""
    try:
        mode = 0 if file is None else stat.S_IMODE(file.stat().st_mode)
    except OSError:
        return []
    if not mode & 0o077:
        return []
    return [f"cluster.secret_file: other users of this machine may read {file} (mode {mode:o}); chmod 600 {file}"]
