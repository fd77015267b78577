"""TCP segments and ARP answers as bytes on the wire, for somebody who writes his packets himself."""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Iterator
from typing import NamedTuple

SYN, PSH, ACK = 2, 8, 16
MOST_PAYLOAD = 1400  # bytes; fits a frame of any network
ALL_PROTOCOLS, ARP, IPV4, OUTGOING = 3, 0x0806, 0x0800, 4  # of Linux's if_ether.h and if_packet.h
_ETHERNET = struct.Struct("!6s6sH")
_IP = struct.Struct("!BBHHHBBH4s4s")
_TCP = struct.Struct("!HHIIBBHHH")
_ARP = struct.Struct("!HHBBH6s4s6s4s")


class Segment(NamedTuple):
    """A TCP segment over IPv4 and Ethernet; its checksums are made by `pack`."""

    to_mac: bytes
    from_mac: bytes
    source: str
    target: str
    from_port: int
    to_port: int
    seq: int
    ack: int
    flags: int
    window: int = 64240
    options: bytes = b""
    payload: bytes = b""

    @property
    def next_seq(self) -> int:
        """The number of the byte behind it."""
        return (self.seq + len(self.payload)) % (1 << 32)

    def pack(self) -> bytes:
        """The frame."""
        source, target = socket.inet_aton(self.source), socket.inet_aton(self.target)
        words = (20 + len(self.options)) // 4
        head = (self.from_port, self.to_port, self.seq, self.ack, words << 4, self.flags, self.window)
        body = self.options + self.payload
        size = _TCP.size + len(body)
        pseudo = source + target + struct.pack("!BBH", 0, socket.IPPROTO_TCP, size)
        tcp = _TCP.pack(*head, _checksum(pseudo + _TCP.pack(*head, 0, 0) + body), 0) + body
        about = (0x45, 0, _IP.size + size, 0, 0x4000, 64, socket.IPPROTO_TCP)
        ip = _IP.pack(*about, _checksum(_IP.pack(*about, 0, source, target)), source, target)
        return _ETHERNET.pack(self.to_mac, self.from_mac, IPV4) + ip + tcp


def _checksum(data: bytes) -> int:
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def parse(frame: bytes) -> Segment | None:
    """The TCP segment in a frame, if there is one."""
    if len(frame) < _ETHERNET.size + _IP.size:
        return None
    to_mac, from_mac, kind = _ETHERNET.unpack_from(frame)
    if kind != IPV4:
        return None
    first, _, size, _, _, _, protocol, _, source, target = _IP.unpack_from(frame, _ETHERNET.size)
    at = _ETHERNET.size + 4 * (first & 15)
    if protocol != socket.IPPROTO_TCP or len(frame) < at + _TCP.size:
        return None
    from_port, to_port, seq, ack, words, flags, window, _, _ = _TCP.unpack_from(frame, at)
    begins, ends = at + (words >> 4) * 4, _ETHERNET.size + size
    return Segment(
        to_mac, from_mac, socket.inet_ntoa(source), socket.inet_ntoa(target), from_port, to_port, seq, ack, flags,
        window, frame[at + _TCP.size : begins], frame[begins:ends],
    )  # fmt: skip


def arp_answer(to_mac: bytes, to_address: str, whose: str, mac: bytes) -> bytes:
    """The frame that says to one host: ``whose`` address is at ``mac``."""
    body = _ARP.pack(1, IPV4, 6, 4, 2, mac, socket.inet_aton(whose), to_mac, socket.inet_aton(to_address))
    return _ETHERNET.pack(to_mac, mac, ARP) + body


class Cable:
    """The raw end of a network interface; a context manager."""

    def __init__(self, device: str) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_PROTOCOLS))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self._socket.bind((device, ALL_PROTOCOLS))
        self.mac = bytes(self._socket.getsockname()[4])

    def __enter__(self) -> Cable:
        return self

    def __exit__(self, *about: object) -> None:
        self._socket.close()

    def send(self, frame: bytes) -> None:
        """Put a frame on the wire."""
        self._socket.send(frame)

    def segments(self, seconds: float, tick: float = 0.1) -> Iterator[Segment | None]:
        """TCP segments of anybody as they pass; None after every ``tick`` seconds without one."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if not select.select([self._socket], [], [], tick)[0]:
                yield None
                continue
            frame, about = self._socket.recvfrom(1 << 17)
            if about[2] != OUTGOING and (segment := parse(frame)) is not None:
                yield segment
