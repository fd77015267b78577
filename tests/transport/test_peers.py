"""Peers as separate processes: killed, stopped, busy, gone. Limits are generous; what is promised is said beside them."""

from __future__ import annotations

import ctypes
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gcdist.transport import Down, Frame, In, LinkSettings, Sent, Silent
from tests.transport.conftest import WAIT, End, House, descriptors, eventually
from tests.transport.peer_process import BIG

SHORT: dict[str, Any] = {"beat": 0.2, "silent_after": 1.5, "lost_after": 4.0, "piece_timeout": 20.0}


class Peers:
    """Worker processes by the acceptor of ``house``; all are gone at the end."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, role: str, **times: float) -> tuple[End, subprocess.Popen[bytes]]:
        house = self.house
        script = str(Path(__file__).with_name("peer_process.py"))
        arguments = [
            house.kind,
            str(house.port),
            house.secret or house.source.run_id,
            role,
            *(f"{k}={v}" for k, v in times.items()),
        ]
        process = subprocess.Popen([sys.executable, script, *arguments], stderr=subprocess.PIPE)
        self.processes.append(process)
        end = self.house.joined.get(timeout=60.0)
        assert int(end.hello) == process.pid
        return end, process

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            if process.stderr is not None and not process.stderr.closed:
                process.communicate()


@pytest.fixture
def peers(house: House) -> Iterator[Peers]:
    made = Peers(house)
    yield made
    made.close()


def moving(end: End) -> int:
    """Wait until a body is under way in either direction."""
    link = end.link
    start: int = link.bytes_in + link.bytes_out
    assert eventually(lambda: link.bytes_in + link.bytes_out > start + (8 << 20))
    return start


@pytest.mark.parametrize("role", ["flood", "hold"])
def test_a_killed_peer_is_lost_at_once_in_the_middle_of_200_mb(peers: Peers, role: str) -> None:
    end, process = peers.start(role)
    other, _ = peers.start("echo")
    if role == "hold":
        end.link.post(Frame(1, b"", None, np.zeros(BIG, np.uint8)))
    moving(end)
    killed = time.monotonic()
    process.kill()
    down = end.until(Down)
    assert time.monotonic() - killed < 5.0  # milliseconds where the kernel tells; never the 10 s of silence
    assert "connection" in down.reason
    assert end.link.join(WAIT)  # a transfer cut in its middle holds its thread for piece_timeout, no longer
    other.link.post(Frame(4, b"still here"))
    assert other.get(In).frame.head == b"still here"


@pytest.mark.parametrize("house", [{"settings": LinkSettings(**SHORT)}], indirect=True)
@pytest.mark.parametrize("role", ["echo", "flood"])
def test_a_stopped_peer_is_silent_then_lost(peers: Peers, role: str) -> None:
    end, process = peers.start(role, **SHORT)
    if role == "flood":
        moving(end)
    stopped = time.monotonic()
    process.send_signal(signal.SIGSTOP)
    silent = end.until(Silent)
    assert 1.5 <= silent.seconds < 3.0
    down = end.until(Down)
    assert 3.0 < time.monotonic() - stopped < 10.0
    assert down.reason.startswith("nothing heard for 4.")


@pytest.mark.parametrize("house", [{"settings": LinkSettings(**{**SHORT, "lost_after": 60.0})}], indirect=True)
def test_a_peer_that_goes_on_is_heard_again(peers: Peers) -> None:
    end, process = peers.start("echo", **{**SHORT, "lost_after": 60.0})
    for _ in range(2):
        process.send_signal(signal.SIGSTOP)
        end.link.post(Frame(5, b"wake up", None, np.arange(100, dtype=np.uint8)))
        assert end.get(Silent).seconds >= 1.5
        process.send_signal(signal.SIGCONT)
        assert end.get(Silent).seconds == 0.0
        assert end.get(In).frame.head == b"wake up"


def test_a_busy_interpreter_is_no_loss_with_the_default_settings(peers: Peers) -> None:
    end, _ = peers.start("busy")
    end.link.post(Frame(1, (3_000_000).to_bytes(8)))
    ctypes.PyDLL(None).usleep(3_000_000)  # this one, too
    assert end.get(In).frame.head == b"awake"
    assert end.events.empty()


def test_a_process_that_ends_in_the_middle_of_a_transfer_ends_cleanly(peers: Peers) -> None:
    end, process = peers.start("leave")
    end.link.post(Frame(1))
    _, stderr = process.communicate(timeout=WAIT)
    assert (process.returncode, stderr) == (0, b"")
    end.until(Down)


def test_killed_peers_come_back_without_leaving_anything(peers: Peers) -> None:
    counts = []
    for _ in range(3):
        end, process = peers.start("echo")
        end.link.post(Frame(1, b"", None, np.zeros(1 << 20, np.uint8)), note=1)
        end.get(Sent)
        end.get(In)
        process.kill()
        end.get(Down)
        assert end.link.join(WAIT)
        with pytest.raises(queue.Empty):  # Down was the last
            end.events.get_nowait()
        process.communicate()
        counts.append(descriptors())
    assert eventually(lambda: descriptors() <= counts[0]), counts
