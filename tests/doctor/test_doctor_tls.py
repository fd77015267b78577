"""The doctor of a run over TLS: its one port, both proofs, what is exposed, clocks."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gcdist.cli import main
from gcdist.config import ClusterConfig
from gcdist.doctor import connect as connecting
from gcdist.doctor import tls_port
from gcdist.doctor.serve import serve
from gcdist.transport import Credentials, LinkSettings, TlsDoor
from gcdist.transport.tls_certificates import Role

SECRET = "a secret of more than sixteen letters"
WAIT = 30.0


@pytest.fixture(autouse=True)
def _no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GCDIST_SECRET", SECRET)


class Master:
    """The door of a running master."""

    def __init__(self, credentials: Credentials) -> None:
        self.refused: list[str] = []
        self.joined: list[int] = []
        self.door = TlsDoor(
            "127.0.0.1", 0, credentials, lambda link, ticket, hello: self.joined.append(ticket), lambda event: None,
            LinkSettings(), on_refused=lambda who, why: self.refused.append(why),
        )  # fmt: skip
        self.port = self.door.port


@pytest.fixture
def master() -> Iterator[Master]:
    made = Master(Credentials.from_secret(SECRET, "master"))
    yield made
    made.door.close()


def test_a_running_master_and_this_end_prove_themselves(master: Master) -> None:
    found = tls_port.ask_master("127.0.0.1", master.port, Credentials.from_secret(SECRET, "worker"))
    assert found.level == "ok", found
    assert "both ends prove themselves" in found.text
    assert master.joined == []


def test_another_secret_is_named(master: Master) -> None:
    found = tls_port.ask_master("127.0.0.1", master.port, Credentials.from_secret("x" * 20, "worker"))
    assert (found.level, found.check) == ("fail", "TLS port")
    assert "does not prove itself" in found.text
    assert "another authority" in found.text


def test_a_revoked_worker_hears_it_from_the_master(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    for words in (["init", str(keys), "-n", "1"], ["revoke", str(keys), "worker1"]):
        with pytest.raises(SystemExit) as end:
            main(["secure", *words])
        assert end.value.code == 0
    roles: dict[str, Role] = {"master": "master", "worker1": "worker"}
    ends = {
        role: Credentials.from_files(keys / f"{name}.pem", keys / f"{name}.key", keys / "authority.pem", role)
        for name, role in roles.items()
    }
    made = Master(ends["master"])
    found = tls_port.ask_master("127.0.0.1", made.port, ends["worker"])
    made.door.close()
    assert found.level == "fail"
    assert "refused by the master: it says that this worker's certificate" in found.text
    assert "revoked" in found.text


def test_nobody_and_somebody_else_at_the_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_port, "SECONDS", 0.5)
    mine = Credentials.from_secret(SECRET, "worker")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        found = tls_port.ask_master("127.0.0.1", silent.getsockname()[1], mine)
    assert (found.level, found.text.split(":")[0]) == ("fail", "no master at 127.0.0.1")
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        found = tls_port.ask_master("127.0.0.1", bound.getsockname()[1], mine)
    assert "no master answers" in found.text


def test_the_command_asks_a_running_master(
    master: Master, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting, "SECONDS", 0.3)
    config = tmp_path / "my.toml"
    config.write_text('[cluster]\ntransport = "tls"\n')
    with pytest.raises(SystemExit):
        main(["doctor", "--config", str(config), "--connect", f"127.0.0.1:{master.port}", "--json"])
    found = {each["check"]: each for each in json.loads(capsys.readouterr().out)["findings"]}
    assert found["TLS port"]["level"] == "ok"
    assert not {"ports", "gloo", "reach"} & set(found)
    assert found["links"]["text"].startswith("tls by the shared secret")


def test_two_doctors_measure_one_port_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gcdist.doctor.wire.BULK_SECONDS", 0.1)
    said: list[str] = []
    heard = threading.Event()

    def say(text: str) -> None:
        said.append(text)
        heard.set()

    thread = threading.Thread(target=serve, args=("127.0.0.1", 0, SECRET, say, 1), daemon=True)
    thread.start()
    assert heard.wait(WAIT)
    port = int(said[0].split(";")[0].rpartition(":")[2])
    seen = connecting.connect("127.0.0.1", port, SECRET, one_port=True)
    thread.join(WAIT)
    assert (seen.blocked_here, seen.blocked_there, seen.pair) == (None, None, None)
    assert said[1:] == ["127.0.0.1 was answered"]


def test_what_the_master_will_leave_open(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tls_port.exposed("10.0.0.1", 29500).text.endswith(
        "A firewall needs TCP 29500 from the workers to it, and nothing else"
    )
    assert tls_port.exposed("node0", 29500).level == "ok"
    assert "which only this machine reaches" in tls_port.exposed("127.0.0.1", 29500).text
    assert tls_port.exposed("0.0.0.0", 29500).level == "warn"
    config = tmp_path / "my.toml"
    config.write_text('[cluster]\ntransport = "tls"\nport = 29777\n')
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(SystemExit):
        main(["doctor", "--config", str(config), "--json"])
    texts = [each["text"] for each in json.loads(capsys.readouterr().out)["findings"] if each["check"] == "TLS port"]
    assert texts == ["the master will listen on 127.0.0.1:29777 alone, which only this machine reaches"]


def test_certificates_by_the_clock_of_the_other_end(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main(["secure", "init", str(tmp_path), "-n", "1"])
    cluster = ClusterConfig(
        transport="tls",
        certificate=tmp_path / "{name}.pem",
        key=tmp_path / "{name}.key",
        authority=tmp_path / "authority.pem",
    )
    assert tls_port.judge_clock(cluster, 5.0) == []
    assert tls_port.judge_clock(ClusterConfig(transport="tls"), -1e9) == []
    for skew in (-7200.0, 400 * 86400.0):
        wrong = tls_port.judge_clock(cluster, skew, datetime.now(UTC))
        assert [each.level for each in wrong] == ["fail", "fail"]
        there = datetime.now(UTC) + timedelta(seconds=skew)
        assert "the other end will refuse " in wrong[0].text
        assert f"and there it is {there:%Y-%m-%d}" in wrong[0].text
