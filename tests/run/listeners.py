"""What a process listens on, from /proc."""

from __future__ import annotations

import os
import socket
from pathlib import Path

LISTEN = "0A"


def listens_on(pid: int) -> set[str]:
    """The addresses that the TCP sockets of a process listen on, of its own network namespace."""
    return {address for address, _ in listening_places(pid)}


def listening_places(pid: int) -> set[tuple[str, int]]:
    """The same with their ports."""
    inodes = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{name}")
        except FileNotFoundError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    found = set()
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == LISTEN and words[9] in inodes:
                address, port = words[1].split(":")
                raw = bytes.fromhex(address)
                swapped = b"".join(raw[i : i + 4][::-1] for i in range(0, len(raw), 4))  # words of the host's order
                found.add((socket.inet_ntop(family, swapped), int(port, 16)))
    return found
