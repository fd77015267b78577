"""The one port of a run over TLS: reached from here or not, what else it leaves open, and the clocks at both ends."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from gcdist.config import ClusterConfig
from gcdist.doctor.finding import Finding
from gcdist.doctor.links import certificates_here
from gcdist.transport import Credentials, JoinError, RefusedError, is_loopback, prove

CHECK = "TLS port"
SECONDS = 5.0


def ask_master(host: str, port: int, credentials: Credentials) -> Finding:
    """A handshake with whoever listens at ``host:port``, and no more: the master counts a caller that said nothing."""
    try:
        prove(host, port, credentials, SECONDS)
    except RefusedError as error:
        return Finding(
            CHECK, "fail", str(error), "gcdist doctor --config FILE at both ends: secret, certificates, clocks"
        )
    except JoinError as error:
        fix = f"gcdist doctor --serve {host}:{port} there, or start the master; open TCP {port} in its firewall"
        return Finding(CHECK, "fail", str(error), fix)
    return Finding(CHECK, "ok", f"{host}:{port}: a master of this run answers, and both ends prove themselves")


def reached(host: str, port: int) -> Finding:
    """The port, where a doctor has answered."""
    return Finding(CHECK, "ok", f"{host}:{port} is reached from here; a run over TLS needs no other port at either end")


def exposed(host: str, port: int) -> Finding:
    """What the master will leave open at this address."""
    try:
        alone = is_loopback(host)
        everywhere = host in ("0.0.0.0", "::")
    except ValueError:  # a name
        alone = everywhere = False
    if alone:
        return Finding(CHECK, "ok", f"the master will listen on {host}:{port} alone, which only this machine reaches")
    text = f"the master will listen on {host}:{port} alone; workers listen nowhere"
    if everywhere:
        fix = "MASTER_ADDR: the address of one network"
        return Finding(CHECK, "warn", f"the master will listen on port {port} of all addresses of this machine", fix)
    return Finding(CHECK, "ok", f"{text}. A firewall needs TCP {port} from the workers to it, and nothing else")


def judge_clock(cluster: ClusterConfig, skew: float, now: datetime | None = None) -> list[Finding]:
    """The certificates on this machine by the clock of the other end, which is ``skew`` seconds ahead of this one."""
    if cluster.certificate is None:
        return []  # a secret's certificates hold from 2000 to 2199
    there = (now or datetime.now(UTC)) + timedelta(seconds=skew)
    wrong = []
    for path, certificate in certificates_here(cluster.certificate):
        begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if not begins <= there < ends:
            when = f"valid from {begins:%Y-%m-%d %H:%M} to {ends:%Y-%m-%d %H:%M} UTC, and there it is {there:%Y-%m-%d %H:%M}"
            wrong.append(
                Finding(CHECK, "fail", f"the other end will refuse {path}: {when}", "timedatectl set-ntp true")
            )
    return wrong
