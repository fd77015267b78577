"""The plane of a run's settings: protection of its links, exposed parts, and validity of its certificates."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from gcdist.config import ClusterConfig, ConfigError
from gcdist.doctor.finding import Finding
from gcdist.transport import Credentials, CredentialsError
from gcdist.transport.tls_certificates import Certificate, common_name, read_certificate

CHECK = "links"
SOON = timedelta(days=14)  # a certificate that ends sooner gives a finding: a run and its repeats may take as long
PAGE = "docs/security.md"


def judge_links(cluster: ClusterConfig, now: datetime | None = None) -> list[Finding]:
    """Findings on ``cluster.transport`` and on the files that are on this machine.

    Args:
        cluster: the settings.
        now: time of day, with its zone; None: this machine's clock.
    """
    now = now or datetime.now(UTC)
    try:
        secret = cluster.shared_secret()
    except ConfigError as error:
        return [
            Finding(CHECK, "fail", str(error), "write one: head -c 32 /dev/urandom | base64 > secret; chmod 600 secret")
        ]
    if cluster.transport == "gloo":
        text = "gloo: links are neither encrypted nor authenticated; the store and every link have an open port"
        if secret is None:
            return [
                Finding(CHECK, "warn", f"{text}; whoever reaches them can join", f'cluster.transport = "tls" ({PAGE})')
            ]
        return [Finding(CHECK, "ok", f"{text}; joining needs the shared secret ({PAGE})")]
    if cluster.certificate is None or cluster.key is None or cluster.authority is None:
        if secret is None:
            fix = "GCDIST_SECRET, cluster.secret_file, or gcdist secure init keys -n 8"
            return [Finding(CHECK, "fail", "tls: there is neither a shared secret nor a certificate", fix)]
        return [Finding(CHECK, "ok", _exposed("the shared secret"))]
    found = list(_certificates(cluster.certificate, cluster.key, cluster.authority, cluster.master_name, now))
    if all(each.level == "ok" for each in found):
        return [Finding(CHECK, "ok", _exposed("certificates")), *found]
    return found


def _exposed(by: str) -> str:
    return f"tls by {by}: one port of the master is open to the network; sizes and times of messages stay visible"


def _certificates(certificate: Path, key: Path, authority: Path, master: str, now: datetime) -> Iterator[Finding]:
    names = sorted(_names_here(certificate))
    if not names:
        missing = str(certificate).replace("{name}", "master")
        yield Finding(
            CHECK, "fail", f"no certificate such as {missing} is on this machine", "gcdist secure init keys -n 8"
        )
    for name in names:
        mine, its_key = _of(certificate, name), _of(key, name)
        try:
            made = Credentials.from_files(mine, its_key, authority, "master" if name == "master" else "worker", master)
            about = read_certificate(mine.read_bytes())
        except (CredentialsError, OSError) as error:
            yield Finding(
                CHECK, "fail", str(error), "gcdist secure init issues what is missing, --renew all; or set the clock"
            )
            continue
        left = about.not_valid_after_utc - now
        who = f"{mine} ({common_name(about)})"
        if left < SOON:
            days = max(0, left.days)
            yield Finding(CHECK, "warn", f"{who} ends in {days} days", "gcdist secure init keys -n 8 --renew")
        elif made.warnings:
            yield Finding(CHECK, "warn", "; ".join(made.warnings), f"chmod 600 {its_key}")
        else:
            yield Finding(CHECK, "ok", f"{who} is valid for {left.days} days")


def certificates_here(certificate: Path) -> list[tuple[Path, Certificate]]:
    """The certificates of members on this machine that can be read."""
    found = []
    for name in sorted(_names_here(certificate)):
        with suppress(OSError, ValueError):
            found.append((path := _of(certificate, name), read_certificate(path.read_bytes())))
    return found


def _names_here(certificate: Path) -> set[str]:
    """Members with certificates on this machine; without ``{name}`` in the path, the one of RANK."""
    if "{name}" not in certificate.name:
        rank = os.environ.get("RANK", "0")
        return {"master" if rank == "0" else f"worker{rank}"} if certificate.exists() else set()
    before, _, after = certificate.name.partition("{name}")
    found = {
        path.name[len(before) : len(path.name) - len(after)] for path in certificate.parent.glob(f"{before}*{after}")
    }
    return {name for name in found if name == "master" or (name.startswith("worker") and name[6:].isdecimal())}


def _of(path: Path, name: str) -> Path:
    return Path(str(path).replace("{name}", name))
