"""What the doctor says of a run's plane: what is exposed, secrets and certificates that will not do."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gcdist.cli import main
from gcdist.config import ClusterConfig
from gcdist.doctor.links import judge_links

SECRET = "a secret of more than sixteen letters"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    with pytest.raises(SystemExit) as end:
        main(["secure", "init", str(tmp_path / "keys"), "-n", "2"])
    assert end.value.code == 0
    return tmp_path / "keys"


@pytest.fixture(autouse=True)
def _no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GCDIST_SECRET", raising=False)


def by_files(keys: Path) -> ClusterConfig:
    return ClusterConfig(
        transport="tls", certificate=keys / "{name}.pem", key=keys / "{name}.key", authority=keys / "authority.pem"
    )


def test_gloo_is_exposed_and_a_secret_guards_joining(monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = judge_links(ClusterConfig())
    assert (found.level, found.fix) == ("warn", 'cluster.transport = "tls" (docs/security.md)')
    assert "neither encrypted nor authenticated" in found.text
    monkeypatch.setenv("GCDIST_SECRET", SECRET)
    (found,) = judge_links(ClusterConfig())
    assert found.level == "ok"
    assert "joining needs the shared secret" in found.text


def test_tls_needs_a_secret_or_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = judge_links(ClusterConfig(transport="tls"))
    assert (found.level, found.text) == ("fail", "tls: there is neither a shared secret nor a certificate")
    monkeypatch.setenv("GCDIST_SECRET", SECRET)
    (found,) = judge_links(ClusterConfig(transport="tls"))
    assert found.level == "ok"
    assert "one port of the master" in found.text


def test_certificates_that_are_good_soon_over_and_open_to_others(keys: Path) -> None:
    about, *each = judge_links(by_files(keys))
    assert about.text.startswith("tls by certificates: one port")
    assert [finding.level for finding in each] == ["ok", "ok", "ok"]
    assert "master.pem (master) is valid for 36" in each[0].text
    late = judge_links(by_files(keys), datetime.now(UTC) + timedelta(days=360))
    assert [finding.level for finding in late] == ["warn"] * 3
    assert "ends in 4 days" in late[0].text or "ends in 5 days" in late[0].text
    (keys / "worker1.key").chmod(0o644)
    found = [finding for finding in judge_links(by_files(keys)) if finding.level != "ok"]
    assert [finding.fix for finding in found] == [f"chmod 600 {keys / 'worker1.key'}"]


def test_a_key_of_another_certificate_and_missing_files(keys: Path, tmp_path: Path) -> None:
    (keys / "worker2.key").write_bytes((keys / "worker1.key").read_bytes())
    found = [finding for finding in judge_links(by_files(keys)) if finding.level == "fail"]
    assert len(found) == 1
    assert found[0].text.startswith(f"cluster.key: {keys / 'worker2.key'} is not the key of")
    (nothing,) = judge_links(by_files(tmp_path / "elsewhere"))
    assert nothing.text.startswith("no certificate such as ")


def test_the_command_reads_a_runs_settings(keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = keys.parent / "my.toml"
    config.write_text(
        '[cluster]\ntransport = "tls"\ncertificate = "keys/{name}.pem"\nkey = "keys/{name}.key"\n'
        'authority = "keys/authority.pem"\n'
    )
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["doctor", "--config", str(config), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert [each["level"] for each in told["findings"] if each["check"] == "links"] == ["ok"] * 4
