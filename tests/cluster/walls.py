"""Routers of nftables for `Hosts`: one with a single open port, and one that hides the machine behind it."""

from __future__ import annotations

from gcdist.bench.network import INTERFACE, run
from tests.cluster.hosts import Hosts

_GATE = """
table ip wall {{
  chain translate {{ type nat hook prerouting priority -100; iifname "{device}" tcp dport {port} dnat to {target}; }}
  chain pass {{
    type filter hook forward priority 0; policy drop;
    ct state established,related accept
    ct status dnat ip daddr {target} tcp dport {port} accept
  }}
  chain own {{ type filter hook input priority 0; policy drop; }}
}}
"""
_HOME = """
table ip wall {{
  chain translate {{ type nat hook postrouting priority 100; oifname "{device}" masquerade; }}
  chain pass {{
    type filter hook forward priority 0; policy drop;
    ct state established,related accept
    iifname "in0" accept
  }}
  chain own {{ type filter hook input priority 0; policy drop; }}
}}
"""


def move_behind(hosts: Hosts, rank: int, router: int, net: str) -> str:
    """Take a host off the bridge and put it behind the router, on ``net`` ("192.168.77"); its new address."""
    inner, outer = hosts.name(rank), hosts.name(router)
    run("ip", "-n", inner, "link", "del", INTERFACE)
    run("ip", "-n", outer, "link", "add", "in0", "type", "veth", "peer", "name", INTERFACE, "netns", inner)
    for name, device, address in ((outer, "in0", f"{net}.1"), (inner, INTERFACE, f"{net}.2")):
        run("ip", "-n", name, "addr", "add", f"{address}/24", "dev", device)
        run("ip", "-n", name, "link", "set", device, "up")
    run("ip", "-n", inner, "route", "add", "default", "via", f"{net}.1")
    run(*hosts.inside(router, "sysctl", "-qw", "net.ipv4.ip_forward=1"))
    return f"{net}.2"


def open_one_port(hosts: Hosts, router: int, port: int, target: str) -> None:
    """The router forwards this port to ``target`` and drops all else; what is behind it can begin no connection."""
    run(*hosts.inside(router, "nft", _GATE.format(device=INTERFACE, port=port, target=target)))


def hide(hosts: Hosts, router: int) -> None:
    """Whoever is behind the router connects to others by its address, and nobody connects to him."""
    run(*hosts.inside(router, "nft", _HOME.format(device=INTERFACE)))


def make_hub(hosts: Hosts) -> None:
    """Every host on the bridge sees all frames."""
    run("ip", "link", "set", hosts.bridge, "type", "bridge", "ageing_time", "0")
