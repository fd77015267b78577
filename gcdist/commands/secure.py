"""`gcdist secure`: a small authority for one group of machines, and certificates for its master and workers."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from gcdist.config import ConfigError
from gcdist.transport.tls_certificates import (
    Issued,
    Role,
    common_name,
    issue,
    new_authority,
    read_authority,
    read_certificate,
    revocation_list,
    revoked_serials,
)
from gcdist.whole_file import write_whole

SECRET = 0o600  # permissions of a key

secure = typer.Typer(
    help='Certificates for cluster.transport = "tls": init makes them, show lists them, revoke takes one back.',
    no_args_is_help=True,
    rich_markup_mode=None,
)
Folder = Annotated[Path, typer.Argument(help="Folder of the authority; keep it on a machine that is no worker.")]
AUTHORITY, AUTHORITY_KEY, MASTER = "authority", "authority.key", "master"
_CRL = b"-----BEGIN X509 CRL-----"
SOON = timedelta(days=14)


@secure.command()
def init(
    folder: Folder,
    workers: Annotated[
        int, typer.Option("-n", "--workers", min=1, max=100_000, help="Number of workers that get a certificate.")
    ],
    days: Annotated[
        float, typer.Option(min=0.01, max=36500, help="Days for which the certificates are valid.")
    ] = 365.0,
    renew: Annotated[bool, typer.Option("--renew", help="Issue new certificates for existing names too.")] = False,
) -> None:
    """Make an authority, and certificates for a master and workers. A second call adds what is missing.

    Example: gcdist secure init keys -n 8
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        os.chmod(folder, 0o700)
        if (folder / AUTHORITY_KEY).exists():
            authority = _authority(folder)
        else:
            authority = new_authority(f"gcdist {folder.resolve().name}"[:64], max(3650.0, 2 * days))
            write_whole(folder / AUTHORITY_KEY, authority.key_pem, SECRET, flush=True)
            write_whole(folder / f"{AUTHORITY}.pem", authority.certificate_pem, flush=True)
        names: list[tuple[str, Role]] = [(MASTER, "master")]
        names += [(f"worker{rank}", "worker") for rank in range(1, workers + 1)]
        made = []
        for name, role in names:
            if renew or not (folder / f"{name}.pem").exists():
                issued = issue(authority, role, name, days)
                write_whole(folder / f"{name}.key", issued.key_pem, SECRET, flush=True)
                write_whole(folder / f"{name}.pem", issued.certificate_pem, flush=True)
                made.append(name)
    except OSError as error:
        raise ConfigError(f"secure init: {error.filename or folder}: {error.strerror}") from None
    console = Console(highlight=False)
    console.print(f"{len(made)} certificates issued in {folder}, valid for {days:g} days", soft_wrap=True)
    console.print(
        f"Copy to the master {MASTER}.pem, {MASTER}.key and {AUTHORITY}.pem, to worker 1 worker1.pem, worker1.key and "
        f"{AUTHORITY}.pem, and so on; {AUTHORITY_KEY} to nobody. Settings of all of them:\n\n"
        f'[cluster]\ntransport = "tls"\ncertificate = "{folder.name}/{{name}}.pem"\nkey = "{folder.name}/{{name}}.key"\n'
        f'authority = "{folder.name}/{AUTHORITY}.pem"',
        soft_wrap=True,
        markup=False,
    )


@secure.command()
def revoke(
    folder: Folder,
    name: Annotated[str, typer.Argument(help="Name on the certificate to revoke: worker3.")],
) -> None:
    """Revoke a certificate: its holder cannot join any more once the master has the new authority.pem.

    Example: gcdist secure revoke keys worker3, then copy keys/authority.pem to the master; a running master reads it at the
    next call. A link that is up stays up: end that worker too.
    """
    authority = _authority(folder)
    path = folder / f"{name}.pem"
    try:
        certificate = read_certificate(path.read_bytes())
        bundle = (folder / f"{AUTHORITY}.pem").read_bytes()
        serials = revoked_serials(bundle[bundle.index(_CRL) :]) if _CRL in bundle else []
        serials = sorted({*serials, certificate.serial_number})
        crl = revocation_list(authority, serials)
        write_whole(folder / f"{AUTHORITY}.pem", authority.certificate_pem + crl, flush=True)
    except OSError as error:
        raise ConfigError(f"secure revoke: {error.filename or path}: {error.strerror}") from None
    except ValueError:
        raise ConfigError(f"secure revoke: {path} holds no certificate in PEM") from None
    Console(highlight=False).print(
        f"{name} is revoked; copy {folder / AUTHORITY}.pem to the master. To give it another one: delete {path} and run "
        "gcdist secure init",
        soft_wrap=True,
    )


@secure.command()
def show(folder: Folder) -> None:
    """List the certificates of a folder: name, last day, revoked or not. Exit code 1 if one has expired and is not revoked.

    Example: gcdist secure show keys
    """
    table = Table("file", "name", "valid until (UTC)", "")
    bundle = _read(folder / f"{AUTHORITY}.pem")
    revoked = set(revoked_serials(bundle[bundle.index(_CRL) :]) if _CRL in bundle else [])
    now, wrong = datetime.now(UTC), False
    for path in sorted(folder.glob("*.pem")):
        try:
            certificate = read_certificate(path.read_bytes())
        except (OSError, ValueError):
            table.add_row(path.name, "", "", "no certificate")
            continue
        until = certificate.not_valid_after_utc
        state = "expires soon" if until < now + SOON else ""
        if certificate.serial_number in revoked:
            state = "revoked"
        elif until < now:
            state, wrong = "expired", True
        table.add_row(path.name, common_name(certificate), f"{until:%Y-%m-%d %H:%M}", state)
    Console(highlight=False).print(table)
    raise typer.Exit(int(wrong))


def _authority(folder: Path) -> Issued:
    certificate, key = _read(folder / f"{AUTHORITY}.pem"), _read(folder / AUTHORITY_KEY)
    try:
        return read_authority(certificate, key)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"secure: {folder} holds no authority that can be used: {error}") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"secure: {path} cannot be read: {error.strerror} (gcdist secure init makes one)") from None
