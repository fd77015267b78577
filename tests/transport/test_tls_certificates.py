"""Certificates: who believes whom, and the one line that each mistake gets."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from typer.testing import CliRunner

from gcdist.commands.secure import secure
from gcdist.transport import (
    BaseLink,
    Credentials,
    CredentialsError,
    Frame,
    In,
    LinkSettings,
    RefusedError,
    TlsDoor,
    TlsPlane,
)
from gcdist.transport import tls_certificates as certificates
from gcdist.transport.tls_certificates import authority_from_secret, issue, new_authority, read_certificate
from tests.transport.conftest import WAIT, End, eventually

QUICK = LinkSettings(connect_timeout=5.0)
RUNNER = CliRunner()


def run(*words: str) -> str:
    result = RUNNER.invoke(secure, list(words))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.output


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    run("init", str(tmp_path / "keys"), "-n", "2")
    return tmp_path / "keys"


def shown(keys: Path, name: str, role: certificates.Role, **options: str) -> Credentials:
    return Credentials.from_files(keys / f"{name}.pem", keys / f"{name}.key", keys / "authority.pem", role, **options)


class Master:
    def __init__(self, credentials: Credentials) -> None:
        self.refused: list[str] = []
        self.end = End()
        self.door = TlsDoor(
            "127.0.0.1", 0, credentials, lambda link, ticket, hello: link.close("seen"), self.end.events.put, QUICK,
            on_refused=lambda who, why: self.refused.append(why),
        )  # fmt: skip

    def takes(self, credentials: Credentials) -> None:
        link, _ = TlsPlane("127.0.0.1", self.door.port, credentials).join(b"", End().events.put, QUICK, WAIT)
        assert link.join(WAIT)


@pytest.fixture
def master(keys: Path) -> Iterator[Master]:
    made = Master(shown(keys, "master", "master"))
    yield made
    made.door.close()


def test_an_authority_follows_from_the_secret_alone() -> None:
    first, second, other = (
        authority_from_secret(s) for s in ("a secret of many", "a secret of many", "another secret")
    )
    assert first.certificate_pem == second.certificate_pem
    assert first.key.public_key() == second.key.public_key() != other.key.public_key()
    assert issue(first, "worker", "w").key_pem != issue(second, "worker", "w").key_pem  # each start has its own


def test_files_are_made_once_with_the_right_modes(keys: Path) -> None:
    before = {path.name: path.read_bytes() for path in keys.iterdir()}
    assert sorted(before) == sorted(
        [f"{who}.{kind}" for who in ("authority", "master", "worker1", "worker2") for kind in ("pem", "key")]
    )
    assert oct(keys.stat().st_mode & 0o777) == "0o700"
    assert {path.stat().st_mode & 0o777 for path in keys.glob("*.key")} == {0o600}
    assert "1 certificates issued" in run("init", str(keys), "-n", "3")
    assert all((keys / name).read_bytes() == content for name, content in before.items())
    assert "4 certificates issued" in run("init", str(keys), "-n", "3", "--renew", "--days", "2")
    assert (keys / "authority.key").read_bytes() == before["authority.key"]
    assert "expires soon" in run("show", str(keys))


def test_certificates_open(keys: Path, master: Master) -> None:
    for name in ("worker1", "worker2"):
        master.takes(shown(keys, name, "worker"))
    assert not master.refused


def test_a_revoked_worker_is_refused_at_its_next_call(keys: Path, master: Master) -> None:
    worker = shown(keys, "worker2", "worker")
    master.takes(worker)
    assert "worker2 is revoked" in run("revoke", str(keys), "worker2")
    future = datetime.now(UTC) + timedelta(seconds=5)
    os.utime(keys / "authority.pem", (future.timestamp(), future.timestamp()))  # clocks of some disks are coarse
    with pytest.raises(RefusedError, match=r"it says that this worker's certificate has been revoked$"):
        master.takes(worker)
    assert eventually(lambda: master.refused == ["its certificate is refused: it has been revoked"])
    master.takes(shown(keys, "worker1", "worker"))
    assert "revoked" in run("show", str(keys))
    (keys / "worker2.pem").unlink()
    run("init", str(keys), "-n", "2")
    master.takes(shown(keys, "worker2", "worker"))


def test_a_link_that_is_up_stays_up_when_its_worker_is_revoked(keys: Path) -> None:
    joined: list[BaseLink] = []
    events = End()
    door = TlsDoor(
        "127.0.0.1", 0, shown(keys, "master", "master"), lambda link, *about: joined.append(link), events.events.put, QUICK
    )  # fmt: skip
    worker = End()
    worker.link, _ = TlsPlane("127.0.0.1", door.port, shown(keys, "worker2", "worker")).join(
        b"", worker.events.put, QUICK, WAIT
    )
    assert eventually(lambda: bool(joined))
    run("revoke", str(keys), "worker2")
    worker.link.post(Frame(3))
    assert events.get(In).frame.kind == 3
    worker.link.close("seen")
    assert worker.link.join(WAIT)
    assert joined[0].join(WAIT)
    door.close()


def test_expired_is_one_line_at_home(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("init", str(keys), "-n", "2", "--renew", "--days", "0.02")
    later = datetime.now(UTC) + timedelta(days=3)

    class Later(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return later

    monkeypatch.setattr("gcdist.transport.tls_credentials.datetime", Later)
    with pytest.raises(CredentialsError, match=r"^cluster\.certificate: .*worker1\.pem \(worker1\) expired on 20"):
        shown(keys, "worker1", "worker")


def test_a_clock_that_is_behind_is_one_line(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    earlier = datetime.now(UTC) - timedelta(days=3)

    class Earlier(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return earlier

    monkeypatch.setattr("gcdist.transport.tls_credentials.datetime", Earlier)
    with pytest.raises(
        CredentialsError, match=r"^cluster\.certificate: .* is not valid before .* is the clock right\?$"
    ):
        shown(keys, "worker1", "worker")


def test_a_guess_of_the_secret_takes_memory() -> None:
    cost = certificates._SCRYPT
    assert 128 * cost["n"] * cost["r"] == 32 << 20  # bytes, by scrypt's definition


def test_expired_is_refused_by_the_other_end(keys: Path, master: Master) -> None:
    authority = certificates.read_authority(
        (keys / "authority.pem").read_bytes(), (keys / "authority.key").read_bytes()
    )
    old = issue(authority, "worker", "worker1", days=-0.01)
    (keys / "old.pem").write_bytes(old.certificate_pem)
    (keys / "old.key").write_bytes(old.key_pem)
    credentials = shown(keys, "worker1", "worker")

    def load(context: object) -> None:
        context.load_cert_chain(keys / "old.pem", keys / "old.key")  # type: ignore[attr-defined]
        context.load_verify_locations(keys / "authority.pem")  # type: ignore[attr-defined]

    object.__setattr__(credentials, "_load", load)
    credentials._made.clear()
    with pytest.raises(RefusedError, match="it says that this worker's certificate has expired"):
        master.takes(credentials)
    assert eventually(lambda: master.refused == ["its certificate is refused: it has expired"])


def test_a_worker_cannot_be_the_master(keys: Path) -> None:
    false = Master(shown(keys, "worker1", "master"))
    with pytest.raises(RefusedError, match="does not prove itself: its certificate is refused: it is not for this use"):
        false.takes(shown(keys, "worker2", "worker"))
    false.door.close()


def test_the_masters_name_counts(keys: Path, master: Master) -> None:
    with pytest.raises(RefusedError, match=r"does not bear the name master\.example \(cluster\.master_name\)"):
        master.takes(shown(keys, "worker1", "worker", master_name="master.example"))


def test_another_authority_is_refused_at_both_ends(keys: Path, master: Master, tmp_path: Path) -> None:
    run("init", str(tmp_path / "others"), "-n", "1")
    with pytest.raises(RefusedError, match="another authority"):
        master.takes(shown(tmp_path / "others", "worker1", "worker"))
    with pytest.raises(RefusedError, match="another authority"):
        master.takes(Credentials.from_secret("a secret in place of files", "worker"))


def test_mistakes_with_files_are_one_line_each(keys: Path) -> None:
    pem = keys / "worker1.pem"
    with pytest.raises(CredentialsError, match=r"^cluster\.certificate: .*gone\.pem cannot be read: No such file"):
        Credentials.from_files(keys / "gone.pem", pem, pem, "worker")
    with pytest.raises(CredentialsError, match=r"^cluster\.certificate: .*worker1\.key holds no certificate"):
        Credentials.from_files(keys / "worker1.key", pem, pem, "worker")
    with pytest.raises(CredentialsError, match=r"^cluster\.key: .*worker2\.key is not the key of .*worker1\.pem"):
        Credentials.from_files(pem, keys / "worker2.key", keys / "authority.pem", "worker")
    with pytest.raises(CredentialsError, match=r"^cluster\.authority: .*worker1\.key cannot be used"):
        Credentials.from_files(pem, keys / "worker1.key", keys / "worker1.key", "worker")
    (keys / "worker1.key").chmod(0o644)
    [warning] = shown(keys, "worker1", "worker").warnings
    assert warning.startswith("cluster.key: other users of this machine may read")


def test_an_encrypted_key_is_refused_without_asking(keys: Path) -> None:
    authority = certificates.read_authority(
        (keys / "authority.pem").read_bytes(), (keys / "authority.key").read_bytes()
    )
    issued = issue(authority, "worker", "worker1")
    locked = issued.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word"))
    (keys / "worker1.pem").write_bytes(issued.certificate_pem)
    (keys / "worker1.key").write_bytes(locked)
    with pytest.raises(CredentialsError, match=r"^cluster\.key: "):
        shown(keys, "worker1", "worker")


def test_dates_of_new_authorities_reach_back_for_slow_clocks() -> None:
    authority = new_authority("a", 10.0)
    certificate = issue(authority, "worker", "w", 1.0).certificate
    now = datetime.now(UTC)
    assert certificate.not_valid_before_utc < now - timedelta(minutes=30)
    assert now + timedelta(hours=23) < certificate.not_valid_after_utc < now + timedelta(hours=25)
    assert read_certificate(authority.certificate_pem) == authority.certificate


def test_commands_say_what_is_wrong(tmp_path: Path, keys: Path) -> None:
    for words, why in (
        (["revoke", str(keys), "worker9"], "No such file"),
        (["show", str(tmp_path / "nowhere")], "cannot be read"),
        (["init", str(keys / "master.pem"), "-n", "1"], "File exists"),
    ):
        result = RUNNER.invoke(secure, words)
        assert why in str(result.exception), result.output
    (keys / "authority.key").write_text("nothing")
    assert "holds no authority" in str(RUNNER.invoke(secure, ["revoke", str(keys), "worker1"]).exception)
