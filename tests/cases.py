"""Runs every failing input of ../shared/cases and says whether each ends as its README expects.

    python tests/cases.py                 # all of them; exit code 1 if one is not as expected
    python tests/cases.py loss-none toml-bom

Each runs in a temporary copy of its folder, with this interpreter's gcdist. A case that needs the COCO sample is skipped in
words where that is absent. Where the folder of cases is absent, nothing is run and the exit code is 0.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
SECONDS = 240.0  # for one command of a case; more is a failure

Judge = Callable[[Path, list[str], list[int]], bool]  # the folder, then output and exit code of each command


@dataclass(frozen=True, slots=True)
class Case:
    """One input: its commands, what its README expects, and how that is told from output and exit codes."""

    name: str
    commands: Sequence[str]
    expected: str
    judge: Judge
    needs: str = ""  # "coco"


def _all_end_well(folder: Path, said: list[str], codes: list[int]) -> bool:
    return not any(codes) and "Traceback" not in "".join(said)


def _refused(*words: str) -> Judge:
    """It ends with an error whose line has all of these words, and no traceback."""

    def judge(folder: Path, said: list[str], codes: list[int]) -> bool:
        lines = "".join(said).splitlines()
        return all(codes) and "Traceback" not in "".join(said) and any(all(w in x for w in words) for x in lines)

    return judge


def _named(*words: str) -> Judge:
    """It ends with an error, and a line has all of these words; the user's own line may stand in a traceback."""

    def judge(folder: Path, said: list[str], codes: list[int]) -> bool:
        return all(codes) and any(all(w in x for w in words) for x in "".join(said).splitlines())

    return judge


def _ends_with(*words: str) -> Judge:
    """All commands end well, and every one of these is in what they said."""

    def judge(folder: Path, said: list[str], codes: list[int]) -> bool:
        return _all_end_well(folder, said, codes) and all(word in "".join(said) for word in words)

    return judge


def _category_zero(folder: Path, said: list[str], codes: list[int]) -> bool:
    line = next(line for line in said[0].splitlines() if line.startswith("ids 0 and 1"))
    return codes == [0] and "Error" not in line


def _turned(folder: Path, said: list[str], codes: list[int]) -> bool:
    off = [float(x) for x in re.findall(r"off by ([0-9.]+) and", said[0])]
    return codes == [0] and len(off) == 2 and max(off) < 0.03


def _no_target(folder: Path, said: list[str], codes: list[int]) -> bool:
    return codes == [0] and "target" in said[0] and "step 6" not in said[0]


def _ramps(folder: Path, said: list[str], codes: list[int]) -> bool:
    ramps = [[float(x) for x in re.findall(r"[0-9.]+", row)] for row in re.findall(r"\[(.*?)\]", said[0], re.DOTALL)]
    return (
        codes == [0]
        and len(ramps) == 4
        and all(abs(a - b) < 0.02 for r in ramps for a, b in zip(r, ramps[0], strict=False))
    )


def _extra_state(folder: Path, said: list[str], codes: list[int]) -> bool:
    """Kept in a checkpoint, or refused before the first step."""
    kept = "step-00000020" in said[0] and codes == [0]
    return kept or (codes != [0] and "extra_state" in said[0] and not (folder / "run" / "metrics.jsonl").is_file())


def _mask_stays(folder: Path, said: list[str], codes: list[int]) -> bool:
    masks = re.findall(r"mask \[(.*?)\]", "".join(said))
    return not any(codes) and len(masks) == 12 and set(masks) == {"0.0, -inf, -inf"} and "nan" not in "".join(said)


def _none_goes_on(folder: Path, said: list[str], codes: list[int]) -> bool:
    """None and a zero with a graph go on; a zero without one goes on, or the line says what to return in its place."""
    none, zero, graph = said
    going_on = codes[0] == codes[2] == 0 and "done, loss" in none and "done, loss" in graph
    return going_on and ("done, loss" in zero if codes[1] == 0 else "return None" in zero)


def _all_digits(folder: Path, said: list[str], codes: list[int]) -> bool:
    """All digits are learned, or the data that is hardly ever counted is named."""
    found = json.loads(said[0][said[0].index("{") :])
    return codes == [0] and (found["metrics"]["test_accuracy"] > 0.98 or "hardly ever" in said[0])


def _twelve_steps(folder: Path, said: list[str], codes: list[int]) -> bool:
    return codes == [0] and len(re.findall(r"^\d+ [0-9.e-]+ \(", said[0], re.MULTILINE)) == 12


def _new_lr(folder: Path, said: list[str], codes: list[int]) -> bool:
    return codes == [0] and '"lr": 0.001' in said[0] and "KeyError" not in said[0] and "Traceback" not in said[0]


def _checkpoints(folder: Path, said: list[str], codes: list[int]) -> bool:
    wanted = ("step-00000038", "step-00000038", "step-00000050")
    return not any(codes) and all(step in text for step, text in zip(wanted, said, strict=True))


def _losses(said: str) -> list[float]:
    """Lines that are a loss; the other stream's progress line may come before the line's end."""
    return [float(x) for x in re.findall(r"^([0-9.]+)(?:$|step )", said, re.MULTILINE)]


def _fewer_partitions(folder: Path, said: list[str], codes: list[int]) -> bool:
    return "code.partitions" in said[0] and (len(_losses(said[0])) == 2 if codes == [0] else True)


def _two_losses(folder: Path, said: list[str], codes: list[int]) -> bool:
    losses = _losses(said[0])
    return codes == [0] and len(losses) == 2 and all(map(math.isfinite, losses))


def _sparse(folder: Path, said: list[str], codes: list[int]) -> bool:
    """PyTorch's own line, and the page that says so."""
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    return "SparseAdam" in page and "SparseAdam does not support dense gradients" in said[0]


# the README's command needs root, and an interpreter that a user without a name may run: this says the same to python
NO_HOME = """
import pwd
def nobody(uid):
    raise KeyError(uid)
pwd.getpwuid = nobody
from gcdist.cli import main
main()
"""
CASES = (
    Case(
        "annealed-attribute",
        ["gcdist launch local -n 2 -- python case.py"],
        "a line: the model's attribute that the loop changes does not reach the workers",
        _named("attributes of the model", "beta"),
    ),
    Case("coco-category-zero", ["python case.py"], "ids from 0 are mapped", _category_zero),
    Case("coco-exif", ["python case.py {coco}"], "photos are turned as they are shown", _turned, "coco"),
    Case("coco-nothing-to-learn", ["bash case.sh {coco}"], "a line that no target is left; no run", _no_target, "coco"),
    Case("coco-sixteen-bit", ["python case.py"], "16-bit and float ramps read as the 8-bit one", _ramps),
    Case("extra-state", ["python case.py"], "kept, or refused before the first step", _extra_state),
    Case(
        "home-unset",
        [f"env -u HOME python -c {shlex.quote(NO_HOME)} simulate case.toml"],
        "a line that names the option 'cache', or another folder; no traceback",
        lambda folder, said, codes: "Traceback" not in said[0] and (codes == [0] or "'cache'" in said[0]),
    ),
    Case(
        "inf-mask-buffer",
        ["python case.py", "gcdist launch local -n 2 -- python case.py real"],
        "the mask stays 0 / -inf, and training goes on",
        _mask_stays,
    ),
    Case(
        "loss-none",
        ["python case.py none", "python case.py zero", "python case.py graph"],
        "None: no sample counts and the run goes on; a zero without a graph: a line that says to return None",
        _none_goes_on,
    ),
    Case("lost-data", ["gcdist simulate lost8.toml --json"], "98% or more, or a warning", _all_digits),
    Case(
        "prefetch-descriptors",
        ["ulimit -n 1024; gcdist launch local -n 2 -- python case.py"],
        "trains on, without reading ahead",
        _twelve_steps,
    ),
    Case("resume-new-lr", ["bash case.sh"], "the new lr is in force; sgd to adam: no traceback", _new_lr),
    Case("small-data", ["python case.py"], "fewer partitions, and a line", _fewer_partitions),
    Case(
        "sparse-adam",
        ["python case.py"],
        "docs/training.md names SparseAdam; PyTorch's own line stays",
        _sparse,
    ),
    Case(
        "stopped-early",
        ["python case.py break", "python case.py raise", "python case.py evaluate"],
        "a checkpoint at steps 38, 38 and 50",
        _checkpoints,
    ),
    Case(
        "toml-bom",
        [
            r"""printf '\xef\xbb\xbfsteps = 2\n[cluster]\nworkers = 2\n[task]\nname = "digits"\n' > bom.toml; """
            "gcdist simulate bom.toml"
        ],
        "read as without the mark",
        _all_end_well,
    ),
    Case(
        "two-runs-one-script",
        ["gcdist launch local -n 2 -- python case.py"],
        "both folds train on the same processes",
        _ends_with("fold 0 loss", "fold 1 loss"),
    ),
    Case(
        "unseeded-split",
        ["gcdist launch local -n 2 -- python case.py"],
        "workers with other data are refused by the sample's number",
        _named("refuse", "sample", "of the data set"),
    ),
    Case("weight-norm-simulate", ["python case.py"], "two losses", _two_losses),
)


def run_case(case: Case, shared: Path) -> tuple[bool, list[str], list[int]]:
    """Run the commands of a case in a temporary copy; whether it is as expected, what was said, the exit codes."""
    with tempfile.TemporaryDirectory(prefix="gcdist-case-") as temporary:
        top = Path(temporary)
        top.chmod(0o777)
        folder = top / case.name
        shutil.copytree(shared / "cases" / case.name, folder, copy_function=shutil.copyfile)
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o777 if path.is_dir() else 0o666)
        (top / "shared").symlink_to(shared)
        tools = top / "bin"
        tools.mkdir()
        for name, command in (("python", ""), ("gcdist", " -m gcdist")):
            tool = tools / name
            tool.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)}{command} "$@"\n', encoding="utf-8")
            tool.chmod(0o755)
        tools.chmod(0o755)
        env = {**os.environ, "PATH": f"{tools}:{os.environ.get('PATH', '')}", "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        said, codes = [], []
        for command in case.commands:
            text = command.replace("{coco}", shlex.quote(str(shared / "data" / "coco-small")))
            try:
                done = subprocess.run(
                    ["bash", "-c", text],
                    cwd=folder,
                    env=env,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    timeout=SECONDS,
                    check=False,
                )
                said.append(done.stdout)
                codes.append(done.returncode)
            except subprocess.TimeoutExpired as error:
                so_far = (
                    error.stdout.decode(errors="replace") if isinstance(error.stdout, bytes) else error.stdout or ""
                )
                said.append(f"{so_far}\nnot over after {SECONDS:g} s")
                codes.append(124)
        try:
            good = case.judge(folder, said, codes)
        except (LookupError, StopIteration, ValueError):
            good = False
        return good, said, codes


def lacking(case: Case, shared: Path) -> str:
    """What this machine lacks for a case; empty: nothing."""
    if case.needs == "coco" and not (shared / "data" / "coco-small").is_dir():
        return "needs the COCO sample"
    return "" if (shared / "cases" / case.name).is_dir() else "its folder is absent"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases that are named, or all; 1 if one is not as its README expects."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="cases to run (default: all)")
    parser.add_argument("--shared", type=Path, default=SHARED, help="folder of cases/ and data/ (default: ../shared)")
    parser.add_argument("--verbose", action="store_true", help="print all that the commands say")
    options = parser.parse_args(arguments)
    shared: Path = options.shared.resolve()
    unknown = sorted(set(options.names) - {case.name for case in CASES})
    if unknown:
        parser.error(f"no such case: {', '.join(unknown)}; there are {', '.join(case.name for case in CASES)}")
    if not (shared / "cases").is_dir():
        print(f"no cases: {shared / 'cases'} is absent")
        return 0
    bad = []
    for case in CASES:
        if options.names and case.name not in options.names:
            continue
        if why := lacking(case, shared):
            print(f"skip  {case.name:22} {why}", flush=True)
            continue
        begun = time.monotonic()
        good, said, codes = run_case(case, shared)
        about = f"{time.monotonic() - begun:5.1f} s, exit {' '.join(map(str, codes))}"
        print(f"{'ok  ' if good else 'BAD '}  {case.name:22} {about:18} expected: {case.expected}", flush=True)
        if not good:
            bad.append(case.name)
        if options.verbose or not good:
            for text in said:
                print("".join(f"        {line}\n" for line in text.splitlines()[-25:]), flush=True)
    known = {path.name for path in (shared / "cases").iterdir() if path.is_dir()}
    for name in sorted(known - {case.name for case in CASES}):
        bad.append(name)
        print(f"BAD   {name:22} this command does not know the case")
    print(f"not as expected: {', '.join(bad)}" if bad else "all as expected")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
