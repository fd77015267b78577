"""The compose file: its structure, and that its commands make a run; the Dockerfile's promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.conftest import free_port
from tests.launch_files.manifests import yaml

TREE = Path(__file__).parents[2]
COMPOSE = TREE / "launch" / "compose" / "docker-compose.yml"


def test_services_are_alike_but_for_their_part() -> None:
    about = yaml.safe_load(COMPOSE.read_text())
    services = about["services"]
    assert set(services) == {"master", "worker", "slow"}
    for service in services.values():
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["restart"] == "on-failure"
        assert service["environment"]["MASTER_ADDR"] == "master"
    assert services["slow"]["cpus"] < 1
    assert set(about["volumes"]) == {"runs"}


def test_the_image_is_small_pinned_and_not_root() -> None:
    text = (TREE / "Dockerfile").read_text()
    assert "USER 10001:10001" in text
    assert 'ENTRYPOINT ["gcdist"]' in text
    assert "HEALTHCHECK" in text
    for line in re.findall(r"pip install .*", text):
        assert "-c constraints.txt" in line
    ignored = (TREE / ".dockerignore").read_text().splitlines()
    copied = [name for line in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.M) for name in line.split()]
    assert {f"!{name}" for name in copied} < set(ignored)


def test_the_commands_make_a_run(tmp_path: Path) -> None:
    (tmp_path / "gcdist").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m gcdist "$@"\n')
    (tmp_path / "gcdist").chmod(0o755)
    (tmp_path / "my.toml").write_text('steps = 5\n[task]\nname = "digits"\n[task.options]\nmodel = "mlp"\n')
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
    env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORKERS": "1"}
    running = []
    for name in ("master", "slow"):
        [text] = services[name]["command"]
        text = text.replace("$$", "$").replace("/config/", f"{tmp_path}/").replace("/runs", f"{tmp_path}/runs")
        running.append(subprocess.Popen([*services[name]["entrypoint"], text], env=env, cwd=tmp_path))
    try:
        assert [process.wait(150.0) for process in running] == [0, 0]
    finally:
        for process in running:
            process.kill()
            process.wait()
    assert (tmp_path / "runs" / "run" / "summary.json").exists()
