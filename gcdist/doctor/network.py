"""Verdicts on the measurements between two machines."""

from __future__ import annotations

from collections.abc import Mapping

from gcdist.doctor.address import both_names, port_range
from gcdist.doctor.connect import Measured
from gcdist.doctor.finding import Finding
from gcdist.doctor.pair import Paired
from gcdist.doctor.software import judge_both

SLOW = 100e6 / 8  # bytes a second: warn below
FAR = 0.02  # seconds of a round trip: warn above
SKEW = 1.0  # seconds between two clocks: warn above
PARAMETERS = 1_000_000  # coordinates of the model in the example


def judge(seen: Measured, mine: Mapping[str, str], own_name: str, one_port: bool = False) -> list[Finding]:
    """All findings on the way to the other end; ``mine``: this end's versions; ``one_port``: the run has no gloo links."""
    return [
        judge_both(mine, seen.versions),
        _secret(seen.same_secret),
        both_names(seen.my_name, seen.my_address, f"this machine's name, {own_name},", "there"),
        both_names(seen.name_here, seen.address, f"the master's name, {seen.name},", "here"),
        clock(seen.skew, seen.round_trip),
        *([] if one_port else ports(seen, port_range())),
        round_trip(seen.round_trip),
        bandwidth(seen.up, seen.down),
        *([] if seen.pair is None else [pair(seen.pair, seen.up, seen.down)]),
    ]


def unreachable(host: str, port: int, reason: str) -> Finding:
    """The finding without any measurement."""
    if "shared secret" in reason:
        return _secret(False)
    if reason.startswith("refused"):
        fix = f"gcdist doctor --serve {host}:{port} on the master's machine, and open TCP {port} in its firewall"
    elif reason.startswith("nothing answers"):
        fix = f"open TCP {port} to this machine in the firewall of {host} (nft, ufw, the cloud's security group)"
    else:
        fix = f"ping {host}; ip route get {host}; then gcdist doctor --serve {host}:{port} there"
    return Finding("reach", "fail", f"{host}:{port}: {reason}", fix)


def _secret(same: bool) -> Finding:
    if same:
        return Finding("same secret", "ok", "both ends have the same, or none")
    fix = "set the same GCDIST_SECRET on all machines"
    return Finding("same secret", "fail", "one is set here, and the other end does not know it", fix)


def clock(skew: float, spent: float) -> Finding:
    """Clocks: they matter only for the times of logs and files.

    >>> clock(-3.0, 0.001).text
    'the other clock is 3.0 s behind: times in logs do not fit together (training does not depend on them)'
    """
    if abs(skew) <= max(SKEW, spent):
        return Finding("clock", "ok", f"{abs(skew) * 1e3:.0f} ms apart")
    which = "ahead" if skew > 0 else "behind"
    text = f"the other clock is {abs(skew):.1f} s {which}: times in logs do not fit together"
    return Finding("clock", "warn", f"{text} (training does not depend on them)", "timedatectl set-ntp true on both")


def ports(seen: Measured, mine: tuple[int, int]) -> list[Finding]:
    """Ports chosen by the kernel, here from ``mine``, as for gloo's links, which need both directions."""
    wrong = [
        Finding(
            "ports",
            "fail",
            f"links will not come up, blocked: {reason}",
            f"open TCP {low} to {high} {where}, for the other machine (a narrower range: sysctl -w "
            "net.ipv4.ip_local_port_range='40000 40999')",
        )
        for reason, (low, high), where in (
            (seen.blocked_there, seen.ports, "on the master's machine"),
            (seen.blocked_here, mine, "on this machine"),
        )
        if reason
    ]
    return wrong or [Finding("ports", "ok", "links can be made both ways, on ports that the kernel chooses")]


def round_trip(seconds: float) -> Finding:
    """The median round trip."""
    text = f"{seconds * 1e3:.2f} ms"
    if seconds <= FAR:
        return Finding("round trip", "ok", text)
    fix = "larger batches (task.batch_size): fewer steps, each with two round trips"
    return Finding("round trip", "warn", f"{text}: every step has at least two of them", fix)


def bandwidth(up: float, down: float) -> Finding:
    """Bytes a second to the master and from it.

    >>> bandwidth(1.2e6, 1.2e8).level
    'warn'
    """
    text = f"{_bits(up)} to the master, {_bits(down)} from it"
    if min(up, down) >= SLOW:
        return Finding("bandwidth", "ok", text)
    sent, got = PARAMETERS * 4 / 8 / up, PARAMETERS * 4 / 8 / down
    text += f": a step of 1 million parameters takes {sent:.2g} s up and {got:.2g} s down (4 bits)"
    fix = "quantizer.bits = 2 and quantizer.downlink_bits = 2 send less; or ethtool DEV, a cable in place of Wi-Fi"
    return Finding("bandwidth", "warn", text, fix)


def pair(found: Paired | str, up: float, down: float) -> Finding:
    """The gloo pair against plain TCP."""
    if isinstance(found, str):
        fix = "GLOO_SOCKET_IFNAME on both ends; the same torch; TORCH_DISTRIBUTED_DEBUG=INFO says more"
        return Finding("gloo", "fail", f"plain TCP works and a gloo link does not: {found}", fix)
    text = f"round trip {found.round_trip * 1e3:.2f} ms, {_bits(found.up)} to the master, {_bits(found.down)} from it"
    if min(found.up / up, found.down / down) < 0.2 and min(found.up, found.down) < SLOW:
        return Finding(
            "gloo", "warn", f"{text}: far below plain TCP", "try again when the network and machines are idle"
        )
    return Finding("gloo", "ok", text)


def _bits(rate: float) -> str:
    return f"{8e-9 * rate:.1f} Gbit/s" if rate >= 1.25e8 else f"{8e-6 * rate:.3g} Mbit/s"
