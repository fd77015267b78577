"""The script of docs/from-ddp.md, before and after: few lines changed, and both train."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from difflib import SequenceMatcher
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"
LIMIT = 200.0  # seconds


def changed(before: list[str], after: list[str]) -> int:
    """Lines of ``after`` that were added or replaced."""
    blocks = SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    return sum(stop - start for tag, _, _, start, stop in blocks if tag in ("insert", "replace"))


def test_at_most_ten_lines_change() -> None:
    before, after = ((EXAMPLES / f"ddp_{name}.py").read_text().splitlines() for name in ("before", "after"))
    assert 0 < changed(before, after) <= 10


def test_the_full_script_changes_as_many_lines_as_the_page_says() -> None:
    before, after = ((EXAMPLES / f"full_{name}.py").read_text().splitlines() for name in ("before", "after"))
    page = (EXAMPLES.parent / "docs" / "from-ddp.md").read_text(encoding="utf-8")
    assert f"{changed(before, after)} lines added or replaced, {changed(after, before)} removed or replaced" in page


ABORTED = b"terminate called without an active exception"  # torch's own, rarely, as a process group is taken down


def accuracy_of(command: list[str], folder: Path, tries: int = 1) -> float:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"}
    done = subprocess.run([sys.executable, "-m", *command], cwd=folder, env=env, capture_output=True, timeout=LIMIT)
    if tries > 1 and done.returncode and ABORTED in done.stderr:
        return accuracy_of(command, folder, tries - 1)
    found = re.search(r"test accuracy ([\d.]+)%", done.stdout.decode())
    assert done.returncode == 0, done.stderr.decode()
    assert found is not None, done.stdout.decode()
    return float(found[1])


def test_both_train_to_the_same_accuracy(tmp_path: Path) -> None:
    agent = ["torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    before = accuracy_of([*agent, str(EXAMPLES / "ddp_before.py")], tmp_path, tries=3)
    launcher = ["gcdist", "launch", "local", "-n", "2", "--", sys.executable]
    after = accuracy_of([*launcher, str(EXAMPLES / "ddp_after.py")], tmp_path)
    # 360 test images: a standard deviation is 1.1 points at 95%; seen with 2 and with 4 processes: 96 to 97 each
    assert min(before, after) > 92
    assert abs(before - after) < 4


def test_the_full_script_trains_and_a_finished_one_does_not_validate_again(tmp_path: Path) -> None:
    launcher = ["gcdist", "launch", "local", "-n", "2", "--", sys.executable, str(EXAMPLES / "full_after.py")]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"}
    said = []
    for epochs in ("4", "4", "5"):
        done = subprocess.run(
            [sys.executable, "-m", *launcher, "--epochs", epochs],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            timeout=LIMIT,
        )
        assert done.returncode == 0, done.stderr.decode()
        said.append(done.stdout.decode())
    # 360 test images: seen 90 to 93% after 4 epochs
    assert float(re.findall(r"test accuracy ([\d.]+)%", said[0])[0]) > 80
    assert [re.findall(r"^epoch (\d+):", text, re.MULTILINE) for text in said] == [["1", "2", "3", "4"], [], ["5"]]
