"""What a link costs: throughput and round trip against a plain TCP socket and a memory copy, in the same run.

Two processes on loopback, one link of each plane between them: ``python benchmarks/links.py [--json] [--mib 40]``.
A link also checksums (xxh3_64) what it sends and receives, and one of the TLS plane encrypts; the plain socket does neither.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import queue
import socket
import statistics
import time
from collections.abc import Callable

import numpy as np

from gcdist.transport import (
    BaseLink,
    Credentials,
    Down,
    Event,
    Frame,
    GlooPlane,
    In,
    LinkSettings,
    Plane,
    StoreSource,
    TlsDoor,
    TlsPlane,
    digest,
    open_store,
)
from gcdist.types import U8

SMALL = 64  # bytes, round trip
ROUND_TRIPS = 1000
PLANES = ("gloo", "tls")
SECRET = "of the benchmark alone"


def receive_exactly(end: socket.socket, into: memoryview) -> None:
    while len(into):
        into = into[end.recv_into(into) :]


def peer(ports: dict[str, int], plain_port: int, nbytes: int, repeat: int, piece_bytes: int) -> None:
    """The other process: answers each frame; a small answer to a big frame, the same to a small one."""
    plain = socket.create_connection(("127.0.0.1", plain_port))
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    buffer = np.zeros(nbytes, np.uint8)
    for size in [SMALL] * ROUND_TRIPS + [nbytes] * repeat:
        receive_exactly(plain, buffer.data[:size])
        plain.sendall(buffer.data[:SMALL])
    for _ in range(repeat):  # the other way
        receive_exactly(plain, buffer.data[:SMALL])
        plain.sendall(buffer.data)

    settings = LinkSettings(piece_bytes=piece_bytes)
    planes: dict[str, Plane] = {
        "gloo": GlooPlane(StoreSource("127.0.0.1", ports["gloo"])),
        "tls": TlsPlane("127.0.0.1", ports["tls"], Credentials.from_secret(SECRET, "worker")),
    }
    for name in PLANES:
        events: queue.Queue[Event] = queue.Queue()
        link, _ = planes[name].join(b"", events.put, settings, allocate=lambda n: buffer[:n])
        known = digest(buffer)
        while not isinstance(event := events.get(), Down):
            if isinstance(event, In):
                back = buffer if event.frame.kind == 2 else None
                link.post(Frame(1, bytes(SMALL), None, back, known if back is not None else None))
        link.join(10.0)


def seconds(call: Callable[[], None], repeat: int) -> list[float]:
    """Time of each of ``repeat`` calls."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


def checksum(data: U8) -> None:
    digest(data)


def measure(nbytes: int, repeat: int, piece_bytes: int) -> dict[str, float]:
    """Medians: GB/s of ``nbytes`` there (until its answer is back), GB/s back, microseconds of a small round trip.

    ``_cpu``: processor seconds of this process for a GB.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    source = open_store("127.0.0.1", 0, serve=True)
    tls = TlsPlane("127.0.0.1", 0, Credentials.from_secret(SECRET, "master"))
    events: queue.Queue[Event] = queue.Queue()
    joined: queue.Queue[BaseLink] = queue.Queue()
    buffer = np.zeros(nbytes, np.uint8)
    settings = LinkSettings(piece_bytes=piece_bytes)
    planes: tuple[Plane, ...] = (GlooPlane(source), tls)
    doors = [plane.open(lambda link, ticket, hello: joined.put(link), events.put, settings) for plane in planes]
    assert isinstance(doors[1], TlsDoor)
    ports = {"gloo": source.port, "tls": doors[1].port}
    arguments = (ports, listener.getsockname()[1], nbytes, repeat, piece_bytes)
    process = multiprocessing.get_context("spawn").Process(target=peer, args=arguments)
    process.start()
    try:
        plain, _ = listener.accept()
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        data: U8 = np.random.default_rng(0).integers(0, 256, nbytes, dtype=np.uint8)
        times: dict[str, list[float]] = {}

        def plain_there(size: int, back: int) -> None:
            plain.sendall(data.data[:size])
            receive_exactly(plain, buffer.data[:back])

        times["socket_us"] = seconds(lambda: plain_there(SMALL, SMALL), ROUND_TRIPS)
        times["socket_out"] = seconds(lambda: plain_there(nbytes, SMALL), repeat)
        times["socket_in"] = seconds(lambda: plain_there(SMALL, nbytes), repeat)
        times["copy"] = seconds(lambda: np.copyto(buffer, data), repeat)
        times["digest"] = seconds(lambda: checksum(data), repeat)

        spent: dict[str, float] = {}
        known = digest(data)
        for name in PLANES:
            link = joined.get(timeout=60.0)

            def there(frame: Frame, link: BaseLink = link) -> None:
                link.post(frame)
                while not isinstance(event := events.get(timeout=60.0), In):
                    assert not isinstance(event, Down), event

            times[f"{name}_us"] = seconds(lambda: there(Frame(1, bytes(SMALL))), ROUND_TRIPS)
            for way, frame in (("out", Frame(1, b"", None, data, known)), ("in", Frame(2, bytes(SMALL)))):
                started = time.process_time()
                times[f"{name}_{way}"] = seconds(lambda frame=frame: there(frame), repeat)  # type: ignore[misc]
                spent[f"{name}_{way}_cpu"] = (time.process_time() - started) / (repeat * nbytes / 1e9)
            link.close("measured")
            link.join(10.0)
            while not isinstance(events.get(timeout=60.0), Down):
                pass
        process.join(10.0)
    finally:
        process.kill()
        for door in doors:
            door.close()
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {name: 1e6 * t if name.endswith("_us") else nbytes / t / 1e9 for name, t in medians.items()} | spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--mib", type=int, default=40, help="size of a big frame (default: 40)")
    parser.add_argument("--repeat", type=int, default=10, help="big frames a direction (default: 10)")
    parser.add_argument("--piece-kib", type=int, default=LinkSettings().piece_bytes >> 10, help="size of a piece")
    options = parser.parse_args()
    found = measure(options.mib << 20, options.repeat, options.piece_kib << 10)
    found |= {"mib": options.mib, "piece_kib": options.piece_kib, "cpus": len(os.sched_getaffinity(0))}
    if options.json:
        print(json.dumps({name: round(value, 3) for name, value in found.items()}))
        return
    print(f"{options.mib} MiB frames in pieces of {options.piece_kib} KiB, {found['cpus']:.0f} cpus, loopback, medians")
    print(f"memory copy {found['copy']:.1f} GB/s, checksum {found['digest']:.1f} GB/s")
    for kind in ("socket", *PLANES):
        out, into, trip = found[f"{kind}_out"], found[f"{kind}_in"], found[f"{kind}_us"]
        print(f"{kind:6} out {out:.2f} GB/s, in {into:.2f} GB/s, {SMALL}-byte round trip {trip:.0f} us", end="")
        if kind in PLANES:
            print(f", processor {found[f'{kind}_out_cpu']:.2f} s/GB out, {found[f'{kind}_in_cpu']:.2f} s/GB in", end="")
        print()


if __name__ == "__main__":
    main()
