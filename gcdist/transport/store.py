"""The meeting point of master and workers: a TCPStore, their own or torchrun's."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import torch.distributed

from gcdist.transport.channel import INTERFACE, ChannelError, interface_address, one_line

dist: Any = torch.distributed  # its type stubs lack TCPStore

# stores served by this process, by (host, port): torch closes none before the process ends, and the next run needs it
_served: dict[tuple[str, int], Any] = {}


class JoinError(Exception):
    """Joining a run failed; the text is one clear line."""


@dataclass(frozen=True, slots=True)
class StoreSource:
    """Makes clients of one store. A client has one mutex, so every thread takes its own client.

    ``run_id`` comes before all keys, so that two runs on one store never meet. ``timeout`` (s) bounds each operation.
    The serving process must keep its source as long as others need the store.
    """

    host: str
    port: int
    run_id: str = "run"
    timeout: float = 30.0
    _server: Any = field(default=None, repr=False, compare=False)

    def client(self, timeout: float | None = None) -> Any:
        """A new client; JoinError if the store does not answer within ``timeout`` (s)."""
        limit = self.timeout if timeout is None else timeout
        try:
            _knock(self.host, self.port, limit)
            return dist.TCPStore(self.host, self.port, is_master=False, timeout=timedelta(seconds=limit))
        except (OSError, RuntimeError, ValueError) as error:
            raise JoinError(f"no store answers at {self.host}:{self.port}: {one_line(error)}") from None

    def named(self, run_id: str) -> StoreSource:
        """The same store, for another run."""
        return replace(self, run_id=run_id)

    @staticmethod
    def from_env(env: Mapping[str, str] | None = None, *, timeout: float = 30.0) -> StoreSource:
        """The store that torchrun, SLURM scripts or an ssh loop describe: MASTER_ADDR, MASTER_PORT and RANK.

        Under torchrun its agent serves and all processes are clients. Otherwise rank 0 serves on MASTER_ADDR alone, or,
        if that is not an address of this machine (a forwarded one), on that of GLOO_SOCKET_IFNAME. JoinError names a
        missing variable.
        """
        env = os.environ if env is None else env
        host, port, serve = _place(env)
        serve = serve and not _agent_serves(env)
        if serve:
            host = _own(host, env.get(INTERFACE))
        if serve and (host, port) in _served:
            source = StoreSource(host, port, timeout=timeout, _server=_served[host, port])
        else:
            source = open_store(host, port, serve=serve, timeout=timeout)
        if serve:
            _served[host, source.port] = source._server
        return source.named(env.get("TORCHELASTIC_RUN_ID") or "run")


def master_place(env: Mapping[str, str], port: int | None = None) -> tuple[str, int]:
    """Where the master of the TLS plane listens (as rank 0) or is called: MASTER_ADDR, and ``port``, else MASTER_PORT.

    If torchrun's agent has its store at MASTER_PORT, the port is the next one. JoinError names a missing variable.
    """
    host, found, is_master = _place(env)
    if is_master:
        host = _own(host, env.get(INTERFACE))
    return host, port or found + _agent_serves(env)


def _agent_serves(env: Mapping[str, str]) -> bool:
    """Whether torchrun's agent has a store at MASTER_PORT."""
    return env.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _place(env: Mapping[str, str]) -> tuple[str, int, bool]:
    """MASTER_ADDR, MASTER_PORT, and whether this is rank 0; JoinError."""
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT", "RANK") if not env.get(name)]
    if missing:
        raise JoinError(f"{', '.join(missing)} not set: start with torchrun or set MASTER_ADDR, MASTER_PORT and RANK")
    try:
        port, rank = int(env["MASTER_PORT"]), int(env["RANK"])
    except ValueError:
        raise JoinError(
            f"MASTER_PORT={env['MASTER_PORT']!r}, RANK={env['RANK']!r}: both must be whole numbers"
        ) from None
    return env["MASTER_ADDR"], port, rank == 0


def _own(host: str, interface: str | None) -> str:
    """``host`` if it is an address of this machine, else the address of ``interface``; JoinError if there is neither."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, proto) as probe:
            probe.bind(address)
        return host
    except OSError as error:
        if interface:
            try:
                return interface_address(interface)
            except ChannelError as wrong:
                raise JoinError(str(wrong)) from None
        raise JoinError(
            f"MASTER_ADDR {host}: cannot be listened on ({error.strerror}); if it is forwarded to this machine, set "
            "cluster.interface to the network interface that it comes in by"
        ) from None


def _knock(host: str, port: int, seconds: float) -> None:
    """Wait for a listener, because TCPStore's own wait prints stack traces. OSError after ``seconds``."""
    until = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host, port), timeout=max(0.1, until - time.monotonic())).close()
            return
        except OSError:
            if time.monotonic() + 0.1 > until:
                raise
            time.sleep(0.1)


def open_store(host: str, port: int, *, serve: bool, timeout: float = 30.0) -> StoreSource:
    """The store at ``host:port``; with ``serve`` this process is its server, on that one address (port 0: any free one).

    JoinError if the address cannot be listened on. A client is only connected when `StoreSource.client` is called.
    """
    if not serve:
        return StoreSource(host, port, timeout=timeout)
    listener = None
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, proto)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)
        port = listener.getsockname()[1]
        limit = timedelta(seconds=timeout)
        options = {
            "is_master": True,
            "timeout": limit,
            "wait_for_workers": False,
            "master_listen_fd": listener.detach(),
        }
        try:
            server = dist.TCPStore(host, port, **options)
        except NotImplementedError:  # torch 2.6: only its older server takes a listening socket
            server = dist.TCPStore(host, port, use_libuv=False, **options)
    except (OSError, RuntimeError) as error:
        if listener is not None:
            listener.close()
        raise JoinError(f"cannot serve the store at {host}:{port}: {one_line(error)}") from None
    return StoreSource(host, port, timeout=timeout, _server=server)
