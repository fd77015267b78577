"""`gcdist init`: the starter runs as it stands, simulated and by processes; it reads what is there and never overwrites."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gcdist.cli import main
from gcdist.commands.init import FILES, starter, usual_workers, write_starter
from gcdist.commands.own_code import OwnCode, own_code
from gcdist.config import ConfigError, load_config

LIMIT = 200.0  # seconds
NOTHING = OwnCode((), (), ())
OWN = """
import lightning
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset
class Block(nn.Module): ...
class Net(Block):
    def __init__(self, width, depth=3, *, heads): ...
class Pictures(Dataset[int]):
    def __init__(self, root, train=True): ...
raise SystemExit("never run")
"""


def init(*words: str) -> int | str | None:
    with pytest.raises(SystemExit) as end:
        main(["init", *words])
    return end.value.code


def test_the_starter_learns_when_simulated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "mine"
    assert init(str(folder), "-n", "3") == 0
    assert "3 workers" in capsys.readouterr().out
    main_path = str(folder / "config.toml")
    with pytest.raises(SystemExit) as end:
        main(["simulate", main_path, "--json", "--set", f"out={json.dumps(str(tmp_path / 'runs'))}"])
    assert end.value.code == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["workers"] == 3
    assert summary["steps"] == 100
    assert summary["metrics"]["test accuracy"] > 0.8  # guessing: 0.33


def test_the_starter_trains_by_processes(tmp_path: Path) -> None:
    write_starter(tmp_path / "mine", starter(2, NOTHING))
    bin_folder = os.path.dirname(sys.executable)
    env = {**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["sh", str(tmp_path / "mine" / "launch.sh"), "--json", "--set", "steps=20", "--set", "name=first"],
        env=env,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (summary["workers"], summary["steps"]) == (2, 20)
    assert (tmp_path / "mine" / "runs" / "first" / "metrics.jsonl").exists()


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    (tmp_path / name).write_text("mine")
    assert init(str(tmp_path)) == 2
    assert capsys.readouterr().err.startswith(f"gcdist: init: found {tmp_path / name}; nothing is overwritten")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_a_link_that_leads_nowhere_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "task.py").symlink_to(tmp_path / "elsewhere.py")
    assert init(str(tmp_path)) == 2
    assert not (tmp_path / "elsewhere.py").exists()


def test_all_files_are_written_or_none(tmp_path: Path) -> None:
    texts = {**starter(2, NOTHING), "no/such/folder.txt": ""}
    with pytest.raises(ConfigError, match="cannot be written: No such file or directory"):
        write_starter(tmp_path, texts)
    assert list(tmp_path.iterdir()) == []


def test_a_number_of_workers_below_one_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert init(str(tmp_path), "-n", "0") == 2
    assert capsys.readouterr().err == "gcdist: init --workers: found 0; should be 1 or more\n"


def test_numbers_are_filled_in_and_comments_stay_in_their_column(tmp_path: Path) -> None:
    write_starter(tmp_path, starter(12, NOTHING, gpu=True))
    config = load_config(tmp_path / "config.toml")
    assert (config.cluster.workers, config.compute.device) == (12, "auto")
    lines = (tmp_path / "config.toml").read_text().splitlines()
    assert {line.index("# ", 2) for line in lines if "= " in line and "# " in line[2:] and line[0] != "#"} == {28}
    assert "# partitions = 24           # parts of the data" in "\n".join(lines)
    assert "--nproc-per-node=13 " in (tmp_path / "launch.sh").read_text()
    assert 2 <= usual_workers() <= 8


def test_the_folders_own_code_is_named_and_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.py").write_text(OWN)
    (tmp_path / "broken.py").write_text("def (")
    (tmp_path / "bytes.py").write_bytes(b"\xff\0")
    found = own_code(tmp_path)
    assert [(each.kind, each.call) for each in found.classes] == [
        ("model", "Block()"),
        ("model", "Net(width, heads=heads)"),
        ("data set", "Pictures(root)"),
    ]
    assert (found.trainers, found.distributed) == (("lightning",), ("net.py",))
    assert init(str(tmp_path)) == 0
    told = capsys.readouterr().out
    assert "found model: Block (net.py, line 6), Net (net.py, line 7); task.py says where it goes" in told
    assert "found DistributedDataParallel in net.py" in told
    assert "gcdist.integrations.lightning" in told
    task = (tmp_path / "task.py").read_text()
    assert "`from net import Net`, and `return Net(width, heads=heads)`.\ndef make_model(" in task
    assert "`from net import Pictures`, and Pictures(root) in `build`.\nclass Points(" in task
    compile(task, "task.py", "exec")
