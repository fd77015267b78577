"""gloo's port, shut while no pair is being built: gloo keeps every connection to it for ever, also those of strangers.

gloo has no call for this. The kernel has one: a classic BPF filter on the listening socket sees each packet that would
begin a connection, and one that takes none drops them all. It needs no rights, and connections that exist do not notice.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

_ATTACH, _DETACH = 26, 27  # SO_ATTACH_FILTER and SO_DETACH_FILTER of Linux
_TAKE_NOTHING = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0), 8)  # the instruction: return 0 bytes
_PROGRAM = struct.pack("HP", 1, ctypes.addressof(_TAKE_NOTHING))  # struct sock_fprog: 1 instruction, and where


class Gate:
    """The port of a listening socket: open inside `opened`, else shut, until this process ends. Any thread may open it."""

    def __init__(self, listener: socket.socket) -> None:
        self.port = int(listener.getsockname()[1])
        self._descriptor = os.dup(listener.fileno())
        self._lock = threading.Lock()
        self._inside = 0
        self._set(_ATTACH, _PROGRAM)

    def _set(self, option: int, value: bytes | int) -> None:
        one = socket.socket(fileno=self._descriptor)
        try:
            with suppress(OSError):  # a kernel without filters: as open as gloo leaves it
                one.setsockopt(socket.SOL_SOCKET, option, value)
        finally:
            one.detach()

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Let connections in."""
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._set(_DETACH, 0)
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    self._set(_ATTACH, _PROGRAM)


def listening_here(address: str) -> dict[int, socket.socket]:
    """The listening sockets of this process at ``address``, by inode, each with a descriptor of its own."""
    found: dict[int, socket.socket] = {}
    with suppress(OSError):
        for name in os.listdir("/proc/self/fd"):
            with suppress(OSError), ExitStack() as stack:
                if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                    continue
                one = stack.enter_context(socket.socket(fileno=os.dup(int(name))))
                if (
                    one.family in (socket.AF_INET, socket.AF_INET6)
                    and one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                    and one.getsockname()[0] == address
                    and (inode := os.fstat(one.fileno()).st_ino) not in found
                ):
                    found[inode] = one
                    stack.pop_all()
    return found


def with_gate(address: str, make: Callable[[], Any]) -> tuple[Any, Gate | None]:
    """What ``make`` makes, and the gate of the one port that it opens at ``address``; None: it cannot be told which."""
    before = listening_here(address)
    made = make()
    after = listening_here(address)
    new = [after[inode] for inode in after if inode not in before]
    gate = Gate(new[0]) if len(new) == 1 else None
    for one in (*before.values(), *after.values()):
        one.close()
    return made, gate
