"""One gloo pair: the only module that knows torch.distributed.

It is built on measured facts: a point-to-point operation ends only through ``wait``; a wait that expires closes the
whole pair, at both ends; ``abort`` and ``shutdown`` wake nobody; an operation dropped before it ended can wedge the
pair. It calls the group's own send and recv, because up to torch 2.6 isend and irecv need a group of
init_process_group.
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
import socket
import struct
import threading
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed

from gcdist.transport.gloo_port import Gate, with_gate
from gcdist.types import U8

dist: Any = torch.distributed  # its type stubs lack the names used here

HEADER_TAG = 1
PIECE_TAG = 2
_SEVER_TAG = 3
INTERFACE = "GLOO_SOCKET_IFNAME"
_SIOCGIFADDR = 0x8915  # Linux: get interface address

_devices: dict[str, tuple[Any, Gate | None]] = {}
_devices_lock = threading.Lock()


class ChannelError(Exception):
    """A pair could not be built, or has failed; the text is one line."""


def one_line(error: BaseException) -> str:
    """The first line of an error's text, without the source position gloo puts before it."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    text = lines[0].split("] ", 1)[-1] if lines[0].startswith("[/") else lines[0]
    return text.split(". This is typically", 1)[0]


def route_to(host: str, port: int) -> str:
    """The address of this machine by which it reaches ``host``: loopback exactly if the host is.

    >>> route_to("127.0.0.1", 1)
    '127.0.0.1'
    """
    family, kind, proto, _, address = socket.getaddrinfo(host, port or 1, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, proto) as probe:
        probe.connect(address)  # a datagram socket: nothing is sent
        return str(probe.getsockname()[0])


def interface_address(name: str) -> str:
    """The address of a network interface (IPv4, else a global IPv6 one); ChannelError lists all names. Linux only.

    >>> interface_address("lo")
    '127.0.0.1'
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
        answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
        return socket.inet_ntoa(answer[20:24])
    with suppress(OSError), open("/proc/net/if_inet6") as table:
        for address, _, _, scope, _, owner in map(str.split, table):
            if owner == name and scope == "00":
                return str(ipaddress.IPv6Address(bytes.fromhex(address)))
    there = ", ".join(known for _, known in socket.if_nameindex())
    raise ChannelError(f"no network interface {name!r} with an address; there are: {there}")


def listening_address(host: str, port: int) -> str:
    """gloo's only listening address here: that of GLOO_SOCKET_IFNAME, else that of the route to ``host``.

    ChannelError if there is no such interface, or no way to that host.
    """
    interface = os.environ.get(INTERFACE)
    if interface:
        return interface_address(interface)
    try:
        return route_to(host, port)
    except OSError as error:
        raise ChannelError(f"no way to {host}: {one_line(error)}") from None


def is_loopback(address: str) -> bool:
    """Whether ``address`` can be reached from this machine alone.

    >>> is_loopback("127.0.1.1"), is_loopback("::1"), is_loopback("10.0.0.1")
    (True, True, False)
    """
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _options(address: str, timeout: timedelta) -> tuple[Any, AbstractContextManager[None]]:
    """Options of a pair without threads of its own, on one device shared by all pairs of this process, and its open port.

    Semi-private names of torch; without them the pair works, too, but costs three threads and five descriptors.
    """
    with _devices_lock:
        if address not in _devices:
            _devices[address] = with_gate(address, lambda: dist.ProcessGroupGloo.create_device(hostname=address))
        device, gate = _devices[address]
        options = dist.ProcessGroupGloo._Options()
        options._devices = [device]
    options._threads = 0
    options._timeout = timeout
    return options, nullcontext() if gate is None else gate.opened()


def as_tensor(array: U8) -> torch.Tensor:
    """A tensor on the memory of ``array``, also when it is read-only (sending does not write)."""
    if array.flags.writeable:
        return torch.from_numpy(array)
    return torch.from_numpy(np.asarray(_Writable(array)))


class _Writable:
    """The memory of an array, offered as writable."""

    def __init__(self, array: U8) -> None:
        self.array = array
        self.__array_interface__ = array.__array_interface__ | {"data": (array.__array_interface__["data"][0], False)}


class Pending:
    """An operation under way. Keep it until `wait` has returned or raised."""

    __slots__ = ("_tensor", "_work")

    def __init__(self, work: Any, tensor: torch.Tensor) -> None:
        self._work = work
        self._tensor = tensor

    def wait(self, seconds: float) -> None:
        """Block until done, without the GIL; ChannelError if it failed, or took longer (then the pair is closed)."""
        try:
            self._work.wait(timedelta(seconds=seconds))
        except RuntimeError as error:
            text = one_line(error)
            if "Timed out" in text:
                text = f"no progress for {seconds:g} s"
            elif "Application timeout" in text:  # another wait on this pair expired
                text = "no progress in time"
            raise ChannelError(text) from None


class Channel:
    """A connected pair over the two-rank group ``key``; both ends build it at the same time.

    Blocks for up to about five times ``timeout`` (seconds); ChannelError if the other end does not come.
    """

    def __init__(self, store: Any, key: str, rank: int, address: str, timeout: float) -> None:
        self._peer = 1 - rank
        self._severed = threading.Lock()
        limit = timedelta(seconds=timeout)
        prefix = dist.PrefixStore(key, store)
        try:
            try:
                options, port = _options(address, limit)
                with port:  # each end opens it before the other one can know the address
                    self._group = dist.ProcessGroupGloo(prefix, rank, 2, options)
            except (AttributeError, TypeError):
                self._group = dist.ProcessGroupGloo(prefix, rank, 2, limit)
        except RuntimeError as error:
            raise ChannelError(one_line(error)) from None

    def send(self, tensor: torch.Tensor, tag: int) -> Pending:
        """Begin to send; the tensor must not change until done."""
        try:
            return Pending(self._group.send([tensor], self._peer, tag), tensor)
        except RuntimeError as error:
            raise ChannelError(one_line(error)) from None

    def receive(self, tensor: torch.Tensor, tag: int) -> Pending:
        """Begin to receive. A message larger than the tensor aborts the process, so the caller must know its size."""
        try:
            return Pending(self._group.recv([tensor], self._peer, tag), tensor)
        except RuntimeError as error:
            raise ChannelError(one_line(error)) from None

    def sever(self) -> None:
        """Close the pair now, at both ends: every wait raises, but a wait for a half-done transfer times out."""
        if self._severed.acquire(blocking=False):  # once
            with suppress(ChannelError):  # only an expired wait closes a pair at once
                self.receive(torch.empty(1, dtype=torch.uint8), _SEVER_TAG).wait(0.001)
