"""A worker's process for the tests: joins over plane KIND at PORT, run or secret RUN, and does what ROLE says."""

from __future__ import annotations

import ctypes
import os
import queue
import sys
from typing import Any

import numpy as np

from gcdist.transport import (
    Credentials,
    Down,
    Event,
    Frame,
    GlooPlane,
    In,
    LinkSettings,
    Plane,
    Sent,
    Silent,
    StoreSource,
    TlsPlane,
)

BIG = 200 << 20


def main(kind: str, port: int, run: str, role: str, settings: LinkSettings) -> int:
    events: queue.Queue[Event] = queue.Queue()
    plane: Plane
    if kind == "gloo":
        plane = GlooPlane(StoreSource("127.0.0.1", port, run))
    else:
        plane = TlsPlane("127.0.0.1", port, Credentials.from_secret(run, "worker"))
    link, _ = plane.join(str(os.getpid()).encode(), events.put, settings, 60.0)
    big = np.zeros(BIG, np.uint8)
    if role == "flood":
        link.post(Frame(1, b"", None, big), note="again")
    while True:
        event = events.get()
        match event:
            case Down():
                return 3
            case Sent() if role == "flood":
                link.post(Frame(1, b"", None, big), note="again")
            case In() if role == "echo":
                link.post(event.frame)
            case In() if role == "busy":  # the interpreter is blocked for as long as the frame says
                ctypes.PyDLL(None).usleep(int.from_bytes(event.frame.head))
                link.post(Frame(2, b"awake"))
            case In() if role == "leave":  # the process ends in the middle of a transfer
                link.post(Frame(1, b"", None, big))
                return 0
            case Silent() if role == "busy":
                link.post(Frame(9, f"{event.seconds:.1f}".encode()))
            case _:
                pass


if __name__ == "__main__":
    _, kind, port, run, role, *times = sys.argv
    given: dict[str, Any] = {name: float(value) for name, value in (time.split("=") for time in times)}
    sys.exit(main(kind, int(port), run, role, LinkSettings(**given)))
