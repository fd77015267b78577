"""gloo's port takes nobody in while no pair is being built: a stranger costs no descriptor."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import numpy as np
import pytest

from gcdist.transport import Frame, In
from gcdist.transport.channel import _devices
from gcdist.transport.gloo_port import Gate, listening_here
from tests.transport.conftest import House, descriptors, gloo_only

HURRY = 0.3  # seconds; a packet that is dropped is never answered


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def comes_in(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=HURRY).close()
    except TimeoutError:
        return False
    return True


def test_a_gate_is_open_while_somebody_has_opened_it(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    assert comes_in(port)
    gate = Gate(listener)
    assert not comes_in(port)
    with gate.opened():
        assert comes_in(port)
        with gate.opened():
            assert comes_in(port)
        assert comes_in(port)
    assert not comes_in(port)


def test_connections_that_exist_do_not_notice(listener: socket.socket) -> None:
    with socket.create_connection(listener.getsockname()) as there, listener.accept()[0] as here:
        Gate(listener)
        there.sendall(b"still here")
        assert here.recv(100) == b"still here"


def test_listeners_of_one_address_are_told(listener: socket.socket) -> None:
    found = listening_here("127.0.0.1")
    assert os.fstat(listener.fileno()).st_ino in found
    assert os.fstat(listener.fileno()).st_ino not in listening_here("127.0.0.2")
    for one in found.values():
        one.close()


@gloo_only
def test_a_stranger_at_gloo_s_port_costs_no_descriptor(house: House) -> None:
    master, worker = house.pair()
    _, gate = _devices["127.0.0.1"]
    assert gate is not None
    port = gate.port
    before = descriptors()
    assert not comes_in(port)
    strangers = [socket.socket() for _ in range(50)]
    for one in strangers:
        one.setblocking(False)
        one.connect_ex(("127.0.0.1", port))
        one.close()
    assert descriptors() == before
    worker.link.post(Frame(3, b"", None, np.ones(50_000, np.uint8)))
    assert master.get(In).frame.data is not None
    house.pair()  # the port opens for the next one
    assert not comes_in(port)
