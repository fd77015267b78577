"""Authorities and certificates of a run: made at random for files, or from the run's shared secret.

An authority is an Ed25519 key and a certificate that signs the others. The master's certificate is for servers and
bears `MASTER_NAME`, a worker's is for clients: a worker's key does not make a master. With a shared secret the
authority's key is scrypt(secret): a process that knows the secret has the authority, issues itself a certificate at
every start, and accepts those of the others. A process without the secret cannot make the authority's signature.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

MASTER_NAME = "gcdist-master"
Role = Literal["master", "worker"]
Certificate = x509.Certificate

_SALT = b"gcdist tls 1"
# 32 MiB and about 0.1 s for each guess of a secret: a guess can be tested on the authority's signature, which all
# callers see
_SCRYPT = {"n": 1 << 15, "r": 8, "p": 1, "maxmem": 64 << 20}
_ALWAYS = (datetime(2000, 1, 1, tzinfo=UTC), datetime(2199, 1, 1, tzinfo=UTC))  # a secret needs no clock
_SLACK = timedelta(hours=1)  # for a clock behind the authority's
_PURPOSES = {"master": ExtendedKeyUsageOID.SERVER_AUTH, "worker": ExtendedKeyUsageOID.CLIENT_AUTH}


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its key."""

    certificate: Certificate
    key: Ed25519PrivateKey

    @property
    def certificate_pem(self) -> bytes:
        """The certificate as PEM."""
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The key as PEM, not encrypted: a file of it must be of mode 600."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def authority_from_secret(secret: str) -> Issued:
    """The authority of those who know ``secret``; takes about 0.1 s and 32 MiB."""
    seed = hashlib.scrypt(secret.encode(), salt=_SALT, dklen=32, **_SCRYPT)
    return _authority(Ed25519PrivateKey.from_private_bytes(seed), "gcdist shared secret", _ALWAYS, serial=1)


def new_authority(name: str, days: float) -> Issued:
    """An authority with a random key that is valid for ``days``."""
    now = datetime.now(UTC)
    return _authority(
        Ed25519PrivateKey.generate(), name, (now - _SLACK, now + timedelta(days=days)), x509.random_serial_number()
    )


def read_authority(certificate_pem: bytes, key_pem: bytes) -> Issued:
    """The authority that `Issued` has written; ValueError if it is none."""
    key = load_pem_private_key(key_pem, None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"the key is {type(key).__name__}, not an Ed25519 key")
    certificate = x509.load_pem_x509_certificate(certificate_pem)
    if certificate.public_key() != key.public_key():
        raise ValueError("certificate and key do not belong together")
    return Issued(certificate, key)


def issue(authority: Issued, role: Role, name: str, days: float | None = None) -> Issued:
    """A certificate of ``role`` with a random key; ``days`` None: valid as long as the authority."""
    key = Ed25519PrivateKey.generate()
    signer = authority.certificate
    begins, ends = signer.not_valid_before_utc, signer.not_valid_after_utc
    if days is not None:
        begins = max(begins, datetime.now(UTC) - _SLACK)
        ends = min(ends, datetime.now(UTC) + timedelta(days=days))
    names = [x509.DNSName(MASTER_NAME)] if role == "master" else [x509.DNSName(name)]
    certificate = (
        _begun(key, name, signer.subject, (begins, ends), x509.random_serial_number())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([_PURPOSES[role]]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
        .sign(authority.key, None)
    )
    return Issued(certificate, key)


def revocation_list(authority: Issued, serials: list[int]) -> bytes:
    """The authority's list of revoked certificates, as PEM; it holds as long as the authority does."""
    now = datetime.now(UTC)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.certificate.subject)
        .last_update(now - _SLACK)
        .next_update(authority.certificate.not_valid_after_utc)
    )
    for serial in serials:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now - _SLACK).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(authority.key, None).public_bytes(Encoding.PEM)


def revoked_serials(pem: bytes) -> list[int]:
    """The serial numbers in a list of revoked certificates."""
    return [entry.serial_number for entry in x509.load_pem_x509_crl(pem)]


def read_certificate(pem: bytes) -> Certificate:
    """The first certificate in ``pem``; ValueError if there is none."""
    return x509.load_pem_x509_certificate(pem)


def common_name(certificate: Certificate) -> str:
    """The holder of a certificate, in words."""
    found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else certificate.subject.rfc4514_string()


def _usage(*, digital_signature: bool = False, signs: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _begun(
    key: Ed25519PrivateKey, name: str, issuer: x509.Name | None, valid: tuple[datetime, datetime], serial: int
) -> x509.CertificateBuilder:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer or subject)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(valid[0])
        .not_valid_after(valid[1])
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _authority(key: Ed25519PrivateKey, name: str, valid: tuple[datetime, datetime], serial: int) -> Issued:
    certificate = (
        _begun(key, name, None, valid, serial)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .sign(key, None)
    )
    return Issued(certificate, key)
