"""docs/faults.md and docs/security.md name tests that exist, in every line of their tables of promises."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gcdist.config import Config
from gcdist.config.secret import LEAST_CHARACTERS
from gcdist.exchange import signals
from gcdist.launcher import machine
from gcdist.master.driver import STUCK_SECONDS
from gcdist.master.links import LEAST_STEPS_QUEUED, MOST_UNHANDLED
from gcdist.observe import files
from gcdist.observe.lock import LEASE_SECONDS
from gcdist.run.checkpoints import AGAIN_SECONDS, COST_MOST
from gcdist.transport import LinkSettings, tls_strangers

ROOT = Path(__file__).parents[2]
PAGES = {"faults": 80, "security": 70}  # and so many tests at least


@pytest.mark.skipif(not (ROOT / "docs").exists(), reason="the docs are not beside the tests")
@pytest.mark.parametrize("page", PAGES)
def test_the_promises_name_tests_that_exist(page: str) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", text)
    assert len(named) > PAGES[page]
    files = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")}
    bare = re.findall(r"`(test_\w+)`", text)
    assert [test for test in bare if not any(f"def {test}(" in content for content in files.values())] == []
    assert [f"{file}::{test}" for file, test in named if f"def {test}(" not in files.get(file, "")] == []


def rows_of(page: str) -> list[tuple[list[str], list[str]]]:
    """The head and the cells of each line of the page's tables."""
    found, head = [], list[str]()
    for line in (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split("|")] if line.startswith("|") else []
        if not cells:
            head = []
        elif not head:
            head = cells
        elif not set(line) <= set("|-: "):
            found.append((head, cells))
    return found


@pytest.mark.skipif(not (ROOT / "docs").exists(), reason="the docs are not beside the tests")
@pytest.mark.parametrize("page", PAGES)
def test_every_promise_of_a_table_names_a_test(page: str) -> None:
    rows = [cells for head, cells in rows_of(page) if head[-1] in ("shown by", "test")]
    assert len(rows) > 25
    assert [cells[0] for cells in rows if "::test_" not in cells[-1]] == []
    tls = [cells for head, cells in rows_of(page) if head[-1] == "over TLS"]
    untested = ("does not reach", "is another user", "gives you", "reaches `gcdist doctor")
    assert [cells[0] for cells in tls if "::test_" not in cells[-1] and not cells[0].startswith(untested)] == []
    assert len(tls) == (13 if page == "security" else 0)


@pytest.mark.skipif(not (ROOT / "docs").exists(), reason="the docs are not beside the tests")
def test_the_figures_on_the_pages_are_those_of_the_code() -> None:
    cluster, checkpoint = Config().cluster, Config().checkpoint
    faults, security = (" ".join((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8").split()) for page in PAGES)
    for text in (
        f"silent after {cluster.silent_after:g} s (`cluster.silent_after`)",
        f"lost after {cluster.lost_after:g} s (`lost_after`)",
        f"(`cluster.piece_timeout`); the link is closed | that message | {cluster.piece_timeout:g} s |",
        f"one is written every {checkpoint.minutes:g} minutes (`checkpoint.minutes`)",
        f"rarer where that would take over {COST_MOST:.0%} of the time",
        f"for {signals.REPEAT_SECONDS:g} s more signals are the same wish",
        f"its part of each step | {STUCK_SECONDS:g} s |",
        f"again every {files.AGAIN_SECONDS / 60:g} minutes",
        f"({files.MOST_WAITING >> 20} MB a file)",
        f"after {MOST_UNHANDLED} that the master could not handle yet (twice the partitions, if more)",
        f"that gives no sign of life for {LEASE_SECONDS:g} s counts as dead",
    ):
        assert text in faults, text
    assert files.AGAIN_SECONDS == AGAIN_SECONDS
    assert signals.REPEAT_SECONDS == machine.REPEAT_SECONDS
    assert LEAST_STEPS_QUEUED == 4.0
    for text in (
        f"shorter than {LEAST_CHARACTERS} characters",
        f"{tls_strangers.STRANGER_BYTES >> 10} KiB and {LinkSettings().connect_timeout:g} s;",
        f"all callers together {tls_strangers.MOST_STRANGERS} descriptors, {tls_strangers.HANDSHAKES_A_SECOND:g} "
        f"handshakes and {tls_strangers.CALLS_A_SECOND:g} accepted connections a second",
        f"may have {MOST_UNHANDLED} messages (twice the partitions, if more) and four times the largest frame",
    ):
        assert text in security, text
