"""The code blocks of a page, and a folder in which they are run one after the other.

Every block of the pages under test has a mark, an HTML comment in the line before it:

``<!-- file: NAME -->``       the block is written to that file
``<!-- run -->``              the block is run by bash; it must end with 0
``<!-- run with A=B -->``     the same, with the word A replaced by B: another machine by this one; B "free-port": a free one
``<!-- run beside ... -->``   the same, but the next blocks do not wait for it; the page's end does
``<!-- prints -->``           its lines, numbers aside, are in the output of the last run, in this order; one that ends in
                              "..." is the beginning of a line
``<!-- settings -->``         TOML that is a valid config
``<!-- not run: REASON -->``  it is not
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gcdist.config import load_config

FENCE = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]*?) -->\n)?^(?P<fence>```|~~~)(?P<language>\w*)\n(?P<text>.*?)^(?P=fence)$", re.M | re.S
)
INDENTED = re.compile(r"(?:^\n|\A)((?:    [^\n]*\n)+)", re.M)
LIMIT = 280.0  # seconds of one block, on a busy machine


@dataclass(frozen=True)
class Block:
    """One fenced block of a page with its mark."""

    mark: str
    language: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in their order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(found["mark"] or "", found["language"], found["text"], text.count("\n", 0, found.start()) + 1)
        for found in FENCE.finditer(text)
    ]


def indented(page: Path) -> list[str]:
    """Blocks that are only indented: they cannot be marked."""
    return [block for block in INDENTED.findall(FENCE.sub("", page.read_text(encoding="utf-8"))) if block.strip()]


def run_page(page: Path, folder: Path) -> int:
    """Do what the page's marks say, in ``folder``; the number of blocks that were run."""
    output, count = "", 0
    port = str(free_port())
    beside: list[tuple[str, subprocess.Popen[str]]] = []
    try:
        for block in blocks(page):
            where = f"{page.name}, line {block.line}"
            verb, _, rest = block.mark.partition(" ")
            if verb == "file:":
                (folder / rest).parent.mkdir(parents=True, exist_ok=True)
                (folder / rest).write_text(block.text, encoding="utf-8")
            elif verb == "run":
                count += 1
                started = start(swapped(block.text, rest, port), folder)
                beside.append((where, started))
                if not rest.startswith("beside"):
                    beside.pop()
                    output = ended_well(where, started)
            elif verb == "settings":
                (folder / "settings.toml").write_text(block.text, encoding="utf-8")
                load_config(folder / "settings.toml")
            elif verb == "prints":
                missing = not_printed(block.text, output)
                assert missing is None, f"{where}: {missing!r} is not in what was printed:\n{output}"
            else:
                assert block.mark.startswith("not run: "), f"{where}: the block has no mark; see tests/docs_blocks.py"
        for where, started in beside:
            ended_well(where, started)
    finally:
        for _, started in beside:
            with suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)
            started.wait()
    return count


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


def swapped(text: str, rest: str, port: str) -> str:
    """The block with the words replaced that its mark names."""
    for pair in re.findall(r"\S+=\S+", rest):
        old, _, new = pair.partition("=")
        text = re.sub(rf"\b{re.escape(old)}\b", port if new == "free-port" else new, text)
    return text


def start(script: str, folder: Path) -> subprocess.Popen[str]:
    """Begin a block, with this interpreter's commands first."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "120", "TERM": "dumb"}
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        env.pop(name, None)
    return subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def ended_well(where: str, started: subprocess.Popen[str]) -> str:
    """What a block has printed; it must have ended with 0."""
    try:
        output, _ = started.communicate(timeout=LIMIT)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
    assert started.returncode == 0, f"{where}: ended with {started.returncode}:\n{output}"
    return output


def not_printed(page: str, output: str) -> str | None:
    """The first line of the page that is not in the output behind those before it; numbers and spaces may differ."""
    printed = iter([plain(line) for line in output.splitlines()])
    for line in page.splitlines():
        if line.strip() in ("", "..."):
            continue
        wanted = plain(line)
        begin = wanted.removesuffix("...").strip() if wanted.endswith("...") else None
        if not any(got.startswith(begin) if begin is not None else got == wanted for got in printed):
            return line
    return None


def plain(line: str) -> str:
    """A line without what differs from run to run: numbers, and which workers they were."""
    line = re.sub(r"\([\d, ]+\)", "(#)", line)
    return re.sub(r"\s+", " ", re.sub(r"\d+(\.\d+)?", "#", line)).strip()
