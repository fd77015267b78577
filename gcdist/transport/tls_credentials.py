"""The certificates that an end shows and accepts on a TLS link, and refusals in words.

TLS 1.3 and nothing older; both ends show a certificate of the run's authority, the master one for servers in the name
`cluster.master_name`, a worker one for clients. A man in the middle would need a certificate of that authority: OpenSSL
checks chain, purpose, name and dates, and each end signs the whole handshake with the certificate's key, which prevents
relay, replay, reflection and downgrade. Sessions are not resumed: no early data, no tickets.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from gcdist.transport.tls_certificates import (
    MASTER_NAME,
    Role,
    authority_from_secret,
    common_name,
    issue,
    read_certificate,
)

SAME_SECRET = "GCDIST_SECRET, or cluster.secret_file, must be the same at both ends"
OTHERS_MAY_READ = 0o077

# OpenSSL's numbers of errors in a certificate
_WRONG = {
    9: "it is not valid yet: is this machine's clock right?",
    10: "it has expired",
    18: "it is of no authority known here",
    19: "it is of another authority than the one set here",
    20: "it is of another authority than the one set here",
    7: "it is of another authority than the one set here",
    23: "it has been revoked",
    26: "it is not for this use (a worker's certificate at the master, or the other way round)",
}
_HOSTNAME, _ADDRESS = 62, 64
# the other end's alerts on our certificate
_ALERTS = {
    "CERTIFICATE_EXPIRED": "has expired",
    "CERTIFICATE_REVOKED": "has been revoked",
    "UNKNOWN_CA": "is of another authority than the other end's",
    "BAD_CERTIFICATE": "is not valid there",
    "UNSUPPORTED_CERTIFICATE": "is not for this role",
    "CERTIFICATE_UNKNOWN": "is not believed there",
    "CERTIFICATE_REQUIRED": "is missing",
}


class CredentialsError(ValueError):
    """Certificates that cannot be used; the text is one line that begins with the setting."""


@dataclass(frozen=True, slots=True, eq=False)
class Credentials:
    """The certificate of one process (``role``), and the authority that it trusts."""

    role: Role
    shared: str  # "secret" or "certificates": the common base of both ends
    master_name: str
    warnings: tuple[str, ...]
    _load: Callable[[ssl.SSLContext], None] = field(repr=False)
    _changed: Callable[[], object] = field(repr=False, default=lambda: None)
    _made: dict[object, ssl.SSLContext] = field(repr=False, default_factory=dict)

    @staticmethod
    def from_secret(secret: str, role: Role) -> Credentials:
        """A certificate of the authority that follows from the secret; takes about 0.1 s."""
        authority = authority_from_secret(secret)
        mine = issue(authority, role, MASTER_NAME if role == "master" else "worker")

        def load(context: ssl.SSLContext) -> None:
            holder = os.memfd_create("gcdist-key")  # ssl reads keys only from files; this file is on no disk
            try:
                os.write(holder, mine.certificate_pem + mine.key_pem)
                context.load_cert_chain(f"/proc/self/fd/{holder}")
            finally:
                os.close(holder)
            context.load_verify_locations(cadata=authority.certificate_pem.decode())

        return Credentials(role, "secret", MASTER_NAME, (), load)

    @staticmethod
    def from_files(
        certificate: Path, key: Path, authority: Path, role: Role, master_name: str = MASTER_NAME
    ) -> Credentials:
        """Certificates in PEM files; ``authority`` may also hold a list of revoked certificates.

        CredentialsError names the file that cannot be read, does not fit, has expired, or is for the other role.
        """
        pem, *_ = (
            _read(name, path) for name, path in (("certificate", certificate), ("key", key), ("authority", authority))
        )
        try:
            mine = read_certificate(pem)
        except ValueError:
            raise CredentialsError(f"cluster.certificate: {certificate} holds no certificate in PEM") from None
        now = datetime.now(UTC)
        if mine.not_valid_after_utc < now:
            raise CredentialsError(
                f"cluster.certificate: {certificate} ({common_name(mine)}) expired on {mine.not_valid_after_utc:%Y-%m-%d}; "
                "issue another one (gcdist secure init)"
            )
        if mine.not_valid_before_utc > now:
            raise CredentialsError(
                f"cluster.certificate: {certificate} ({common_name(mine)}) is not valid before "
                f"{mine.not_valid_before_utc:%Y-%m-%d %H:%M} UTC, and it is {now:%Y-%m-%d %H:%M} here: is the clock right?"
            )
        warnings = []
        if key.stat().st_mode & OTHERS_MAY_READ:
            warnings.append(f"cluster.key: other users of this machine may read {key}; chmod 600 {key}")

        def load(context: ssl.SSLContext) -> None:
            try:
                context.load_cert_chain(certificate, key, password="")  # an encrypted key must not ask at the terminal
            except (ssl.SSLError, OSError) as error:
                raise CredentialsError(
                    f"cluster.key: {key} is not the key of {certificate}: {_reason(error)}"
                ) from None
            try:
                context.load_verify_locations(cafile=authority)
            except (ssl.SSLError, OSError) as error:
                raise CredentialsError(f"cluster.authority: {authority} cannot be used: {_reason(error)}") from None
            if b"BEGIN X509 CRL" in _read("authority", authority):  # with this check OpenSSL requires a list
                context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF

        def changed() -> object:
            try:
                return authority.stat().st_mtime_ns
            except OSError:
                return None

        made = Credentials(role, "certificates", master_name, tuple(warnings), load, changed)
        made.context()
        return made

    def context(self) -> ssl.SSLContext:
        """The settings of TLS for this end; made again after a change of the authority's file (a revocation)."""
        state = self._changed()
        if state not in self._made:
            context = self._new_context()
            self._made.clear()
            self._made[state] = context
        return self._made[state]

    def _new_context(self) -> ssl.SSLContext:
        serves = self.role == "master"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if serves else ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        if serves:
            context.num_tickets = 0
        context.check_hostname = not serves
        context.verify_mode = ssl.CERT_REQUIRED
        self._load(context)
        return context

    def wrap(self) -> tuple[ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO]:
        """A new end of TLS between two buffers: incoming and outgoing bytes."""
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        serves = self.role == "master"
        name = None if serves else self.master_name
        return self.context().wrap_bio(incoming, outgoing, serves, name), incoming, outgoing

    def explain(self, error: ssl.SSLError) -> str:
        """The reason of a failed handshake, in one line."""
        hint = f"; {SAME_SECRET}" if self.shared == "secret" else ""
        if isinstance(error, ssl.SSLCertVerificationError):
            if error.verify_code in (_HOSTNAME, _ADDRESS):
                return f"its certificate does not bear the name {self.master_name} (cluster.master_name)"
            wrong = _WRONG.get(error.verify_code, error.verify_message)
            return f"its certificate is refused: {wrong}{hint}"
        reason = error.reason or ""
        for name, text in _ALERTS.items():
            if name in reason:
                return f"it says that this {self.role}'s certificate {text}{hint}"
        return _reason(error)


def _read(setting: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CredentialsError(f"cluster.{setting}: {path} cannot be read: {error.strerror}") from None


def _reason(error: Exception) -> str:
    """OpenSSL's reason in lower case, or the system's."""
    if isinstance(error, ssl.SSLError):
        return (error.reason or "unknown TLS error").lower().replace("_", " ")
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
