"""A gateway with one open port: carries connections to HOST PORT on to TARGET PORT, from an address of its own."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading


def carry(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def serve(here: tuple[str, int], there: tuple[str, int]) -> None:
    with socket.create_server(here, backlog=1024) as listener:
        while True:
            outer, _ = listener.accept()
            try:
                inner = socket.create_connection(there, timeout=5.0)
            except OSError:
                outer.close()
                continue
            inner.settimeout(None)
            for ends in ((outer, inner), (inner, outer)):
                threading.Thread(target=carry, args=ends, daemon=True).start()


if __name__ == "__main__":
    _, host, port, target, target_port = sys.argv
    serve((host, int(port)), (target, int(target_port)))
