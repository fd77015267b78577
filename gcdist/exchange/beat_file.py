"""A file that is touched as long as this process lives, for the liveness probes of container engines."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

VARIABLE = "GCDIST_BEAT_FILE"


def beat_file(seconds: float) -> Callable[[], None]:
    """Touch the file that GCDIST_BEAT_FILE names every ``seconds``, from a thread of its own; returns what ends it.

    As the links' heart-beat it tells that the process runs: not when it is stopped, or its interpreter is stuck. Without the
    variable this does nothing. ValueError if the file cannot be written.
    """
    name = os.environ.get(VARIABLE)
    if not name:
        return lambda: None
    file, over = Path(name), threading.Event()
    try:
        file.touch()
    except OSError as error:
        raise ValueError(f"{VARIABLE}: {name} cannot be written: {error.strerror}") from None

    def beat() -> None:
        while not over.wait(seconds):
            with suppress(OSError):  # the probe will tell
                file.touch()

    thread = threading.Thread(target=beat, name="gcdist-beat-file", daemon=True)
    thread.start()

    def end() -> None:
        over.set()
        thread.join()

    return end
