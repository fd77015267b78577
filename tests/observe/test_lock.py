"""One master a run's folder: the lock, its end with the process, and the lease of a holder on another host."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gcdist.observe import RunFolder
from gcdist.observe.lock import NAME, FolderLock, LockedError

HOLDER = """
import sys, time
from pathlib import Path
from gcdist.observe.lock import FolderLock
lock = FolderLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


def test_a_second_master_is_refused_by_host_and_process_until_the_first_is_dead(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        line = rf"is in use by process {holder.pid} on host {socket.gethostname()}: end that one first"
        with pytest.raises(LockedError, match=line):
            FolderLock(tmp_path)
        with pytest.raises(ValueError, match=line):
            RunFolder(tmp_path, resume=True)
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        FolderLock(tmp_path).release()  # its lock died with it
    finally:
        holder.kill()
        holder.wait()
        assert holder.stdout is not None
        holder.stdout.close()


def test_this_process_cannot_take_it_twice(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    with pytest.raises(LockedError, match="in use by this very process"):
        FolderLock(tmp_path)
    lock.release()
    lock.release()
    FolderLock(tmp_path).release()


def test_a_holder_on_another_host_is_waited_for_through_one_lease(tmp_path: Path) -> None:
    """A disk whose locks do not reach other hosts: the file itself must change, or its writer is dead."""
    told: list[str] = []
    file = tmp_path / NAME
    file.write_text(json.dumps({"host": "elsewhere", "process": 7, "beats": 1}) + "\n")
    FolderLock(tmp_path, told.append, lease=0.4).release()
    assert told == [
        f"run folder {tmp_path} was left in use by process 7 on host elsewhere: waiting 0.4 s for a sign of life"
    ]
    file.write_text(json.dumps({"host": "elsewhere", "process": 7, "beats": 1}) + "\n")

    def beat(text: str) -> None:
        told.append(text)
        threading.Thread(
            target=lambda: file.write_text(json.dumps({"host": "elsewhere", "process": 7, "beats": 2}) + "\n")
        ).start()

    with pytest.raises(LockedError, match="in use by process 7 on host elsewhere"):
        FolderLock(tmp_path, beat, lease=60.0)
