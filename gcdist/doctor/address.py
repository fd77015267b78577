"""Names and addresses: the addresses of this machine's name, and the address and interface of the links."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gcdist.doctor.finding import Finding, Level
from gcdist.transport import ChannelError, interface_address, is_loopback, listening_address

NOWHERE = "192.0.2.1"  # a documentation address without a host: its route is the default route


@dataclass(frozen=True, slots=True)
class Place:
    """Names and addresses of this machine, as `look` finds them."""

    name: str
    own: tuple[str, ...]  # addresses of that name, here
    host: str | None  # the master's name as given
    hosts: tuple[str, ...]  # its addresses, here
    links: str | None  # gloo's listening address; None: `wrong` has the reason
    interface: str | None  # of that address
    wrong: str = ""


def resolved(name: str) -> tuple[str, ...]:
    """The addresses of a name, here; none if it is unknown."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError:
        return ()
    return tuple(dict.fromkeys(str(each[4][0]) for each in found))


def interface_of(address: str) -> str | None:
    """The network interface with this address."""
    for _, name in socket.if_nameindex():
        try:
            if interface_address(name) == address:
                return name
        except ChannelError:
            continue
    return None


def look(host: str | None) -> Place:
    """Look up names and addresses for a run with the master ``host`` (None: not known)."""
    name = socket.gethostname()
    hosts, links, wrong = (() if host is None else resolved(host)), None, ""
    try:
        links = listening_address(host or NOWHERE, 1)
    except ChannelError as error:
        wrong = str(error)
    return Place(name, resolved(name), host, hosts, links, None if links is None else interface_of(links), wrong)


def judge(seen: Place, master: bool, alone: bool) -> list[Finding]:
    """Findings; ``master``: this machine is to be the master; ``alone``: no other machine takes part."""
    return [_host(seen, master, alone), _own(seen, alone), _links(seen, alone)]


def _host(seen: Place, master: bool, alone: bool) -> Finding:
    what = f"the master, {seen.host},"
    if seen.host is None:
        return Finding("master's address", "ok", "not given (MASTER_ADDR, --connect or --serve)")
    if not seen.hosts:
        fix = f"put it into DNS or a line into /etc/hosts: ADDRESS {seen.host}"
        return Finding("master's address", "fail", f"{what} is unknown here", fix)
    if not alone and is_loopback(seen.hosts[0]):
        text = f"{what} is {seen.hosts[0]} here, which no other machine reaches"
        if not master:
            text += ": this one would look for it on itself"
        return Finding(
            "master's address", "fail", text, f"sed -i 's/^127.0.1.1/# &/' /etc/hosts, or MASTER_ADDR={_better(seen)}"
        )
    return Finding("master's address", "ok", ", ".join(dict.fromkeys([seen.host, *seen.hosts])))


def _better(seen: Place) -> str:
    return seen.links if seen.links is not None and not is_loopback(seen.links) else "its address in the network"


def _own(seen: Place, alone: bool) -> Finding:
    if not seen.own:
        text = f"this machine's own name, {seen.name}, is unknown to itself: torchrun and torch's own gloo fail"
        return Finding("own name", "warn", text, f"echo '{_better(seen)} {seen.name}' >> /etc/hosts")
    if not alone and is_loopback(seen.own[0]):
        text = (
            f"this machine's own name, {seen.name}, is {seen.own[0]} here: torchrun and torch's own gloo would offer that "
            "to others"
        )
        fix = (
            f"export GLOO_SOCKET_IFNAME={seen.interface or 'eth0'}; take {seen.name} out of the line of {seen.own[0]} in "
            "/etc/hosts"
        )
        return Finding("own name", "warn", text, fix)
    return Finding("own name", "ok", f"{seen.name} is {', '.join(seen.own)}")


def _links(seen: Place, alone: bool) -> Finding:
    fix = f"export GLOO_SOCKET_IFNAME=ONE (or cluster.interface), of: {', '.join(n for _, n in socket.if_nameindex())}"
    if seen.links is None:
        level: Level = "ok" if alone and not os.environ.get("GLOO_SOCKET_IFNAME") else "fail"
        return Finding("gloo's interface", level, seen.wrong, fix if level == "fail" else "")
    text = f"links listen on {seen.links} ({seen.interface or 'interface not known'})"
    if not alone and is_loopback(seen.links):
        return Finding("gloo's interface", "fail", f"{text}, which no other machine reaches", fix)
    return Finding("gloo's interface", "ok", text)


def why_taken(host: str, port: int) -> str | None:
    """The reason why a master cannot listen at ``host:port`` here; None if it can."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, proto) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        return "it is in use" if error.errno == errno.EADDRINUSE else str(error.strerror)
    return None


def judge_port(host: str, port: int, taken: str | None) -> Finding:
    """The finding on `why_taken`."""
    if taken is None:
        return Finding("port", "ok", f"{host}:{port} is free")
    if taken == "it is in use":
        fix = f"ss -ltnp 'sport = :{port}' shows by whom; or another MASTER_PORT"
    else:
        fix = "MASTER_ADDR must be an address of the master's machine, or set cluster.interface"
    return Finding("port", "fail", f"{host}:{port} cannot be listened on: {taken}", fix)


def port_range() -> tuple[int, int]:
    """The kernel's range of ports for gloo's links."""
    try:
        low, high = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
        return int(low), int(high)
    except (OSError, ValueError):
        return 32768, 60999


def both_names(found: Sequence[str], address: str, whose: str, where: str) -> Finding:
    """The name of one end, as it is ``found`` at ``where``, against the ``address`` that it has on this connection.

    >>> both_names(["10.0.0.2"], "10.0.0.2", "the master's name, a,", "here").level
    'ok'
    """
    if not found:
        text = f"{whose} is unknown {where}: only addresses can be used"
        return Finding("names both ways", "warn", text, f"add it {where} to DNS, or to /etc/hosts: {address}")
    if address not in found:
        text = f"{whose} is {', '.join(found)} {where}, and comes from {address}"
        return Finding(
            "names both ways", "warn", text, f"MASTER_ADDR=ADDRESS, or correct /etc/hosts {where}: {address}"
        )
    return Finding("names both ways", "ok", f"{whose} is {address} {where}")
