"""The command line as a whole: versions, completion by the shell, help without torch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from gcdist.cli import COMMANDS, GROUPS, main, version_line

LIMIT = 120.0  # seconds
PROBE = "import sys, json; from gcdist.cli import main\ntry: main()\nfinally: print(json.dumps('torch' in sys.modules))"


def completed(line: str, *, zsh: bool = False) -> list[str]:
    """What a shell is offered at the end of ``line``; at last whether torch was imported for it."""
    words = [*line.split(), *([""] if line.endswith(" ") else [])]
    told = (
        {"_TYPER_COMPLETE_ARGS": line} if zsh else {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)}
    )
    env = {**os.environ, **told, "_GCDIST_COMPLETE": "complete_zsh" if zsh else "complete_bash"}
    done = subprocess.run(
        [sys.executable, "-c", PROBE], env=env, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_the_version_names_what_a_report_of_an_error_needs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    line = capsys.readouterr().out.strip()
    assert line == version_line()
    assert line.startswith(f"gcdist {version('gcdist')}, torch {version('torch')}, numba {version('numba')}, python 3.")


def test_commands_are_completed_without_torch() -> None:
    *offered, torch = completed("gcdist re")
    assert offered == ["report"]
    assert not json.loads(torch)
    *everything, torch = completed("gcdist ")
    assert set(everything) == set(COMMANDS)
    assert not json.loads(torch)


def test_files_are_left_to_the_shell_without_torch() -> None:
    assert [json.loads(word) for word in completed("gcdist train exa")] == [False]


def test_options_and_inner_commands_are_completed() -> None:
    assert completed("gcdist train --res")[:-1] == ["--resume"]
    assert completed("gcdist launch ")[:-1] == ["local", "ssh"]
    assert "--max-restarts" in completed("gcdist launch local --")
    assert '"--json":"Print' in " ".join(completed("gcdist runs --js", zsh=True))


def test_groups_are_the_commands_that_have_commands() -> None:
    import importlib

    import typer

    found = {
        name
        for name, (module, function, _) in COMMANDS.items()
        if isinstance(getattr(importlib.import_module(f"gcdist.commands.{module}"), function), typer.Typer)
    }
    assert found == set(GROUPS)


def test_bash_takes_the_script_that_is_printed(tmp_path: Path) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed")
    shown = subprocess.run(
        [sys.executable, "-m", "gcdist", "--show-completion", "bash"],
        env={**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},  # not by the shell around the tests
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=True,
    )
    script = tmp_path / "completion"
    script.write_text(shown.stdout)
    done = subprocess.run(
        [bash, "-c", f"source '{script}' && complete -p gcdist"],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=True,
    )
    assert "-F _gcdist_completion gcdist" in done.stdout
