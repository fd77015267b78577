"""Bare TLS connections, and a tap that sits on a cable and does what it likes with the bytes."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from functools import cache

from gcdist.transport import Credentials
from gcdist.transport.tls_link import Wire
from tests.transport.conftest import SHARED, WAIT

Change = Callable[[str, bytes, int], bytes]  # who sends ("worker" or "master"), bytes, at which offset of its stream


@cache
def master_credentials() -> Credentials:
    return Credentials.from_secret(SHARED, "master")


@cache
def worker_credentials() -> Credentials:
    return Credentials.from_secret(SHARED, "worker")


def shake(ends: list[tuple[ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO]]) -> None:
    """Let two ends of TLS come to terms without a network."""
    done = [False, False]
    while not all(done):
        for i, (tls, _, outgoing) in enumerate(ends):
            with contextlib.suppress(ssl.SSLWantReadError):
                tls.do_handshake()
                done[i] = True
            ends[1 - i][1].write(outgoing.read())


def wire_pair() -> tuple[Wire, Wire]:
    """The master's and the worker's end of a connection."""
    left, right = socket.socketpair()
    for one in (left, right):
        one.settimeout(WAIT)
    ends = [master_credentials().wrap(), worker_credentials().wrap()]
    shake(ends)
    return Wire(left, *ends[0]), Wire(right, *ends[1])


class Tap:
    """Forwards connections to a port; ``change`` sees all bytes and may alter, hold or add some.

    What went by is kept in ``heard``. An exception in ``change`` cuts both cables at once.
    """

    def __init__(self, port: int, change: Change = lambda who, data, at: data) -> None:
        self._target = port
        self._change = change
        self.heard: dict[str, bytearray] = {"worker": bytearray(), "master": bytearray()}
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                worker, _ = self._listener.accept()
                master = socket.create_connection(("127.0.0.1", self._target))
                self._sockets += [worker, master]
                for who, source, sink in (("worker", worker, master), ("master", master, worker)):
                    thread = threading.Thread(target=self._forward, args=(who, source, sink), daemon=True)
                    self._threads.append(thread)
                    thread.start()

    def _forward(self, who: str, source: socket.socket, sink: socket.socket) -> None:
        at = 0
        try:
            while data := source.recv(1 << 16):
                self.heard[who] += data
                sink.sendall(self._change(who, data, at))
                at += len(data)
        except Exception:
            source.close()
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        """Both cables end now, in order for TCP: the ends are told that the other one has sent all."""
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(WAIT)
        for one in self._sockets:
            one.close()
