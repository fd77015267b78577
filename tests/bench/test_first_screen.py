"""The first screen of RESULTS.md: one table, one picture, at most five sentences, losses among them."""

from __future__ import annotations

from pathlib import Path

import pytest

from gcdist.bench.cells import Cell, Outcome
from gcdist.bench.first_screen import first_screen, sentences
from gcdist.bench.schemes import SCHEMES
from gcdist.commands.bench import report
from gcdist.config import ConfigError

pytest.importorskip("matplotlib")


def runs(delays: str, scheme: str, *seconds: float | None) -> list[tuple[Cell, Outcome]]:
    made = []
    for seed, taken in enumerate(seconds):
        outcome = Outcome("budget" if taken is None else "reached", seconds=float("nan") if taken is None else taken)
        outcome.curve = [(0, 0.0, 2.3, 0.1, 0), (10, taken or 20.0, 0.05, 0.9, 1_000_000)]
        made.append((Cell("digits", delays, scheme, 4, seed, 0.8, SCHEMES[scheme].deadline, 0.05, 0.3, 20.0), outcome))
    return made


RESULTS = [
    *runs("none", "ddp", 1.0, 1.2),
    *runs("none", "torchft", 1.1, 1.2),
    *runs("none", "auto", 2.0, 2.4),
    *runs("exponential", "ddp", 12.0, 16.0),
    *runs("exponential", "hivemind", None, None),
    *runs("exponential", "osgc", 4.0, 5.0),
    *runs("exponential", "auto", 6.0, 8.0),
]


def test_gains_and_losses_are_both_said() -> None:
    assert sentences(RESULTS) == [
        "`auto` is faster than DDP under 1 of the 2 kinds of delays where both arrive, 2.00 times at best (exponential).",
        "It loses under none: DDP is 2.00 times as fast.",
        "Under 2 of 2 another scheme is faster than `auto`; it loses most to `ddp` (none), 2.00 times.",
        "torchft always reached the target under 1 of 1 (0.95 to 0.95 times DDP's speed); hivemind always reached the "
        "target under 0 of 1.",
        "The target was not always reached by `hivemind` (exponential, 0 of 2).",
    ]


def test_one_table_and_one_picture(tmp_path: Path) -> None:
    lines = first_screen(RESULTS, tmp_path / "RESULTS.md", tmp_path / "img")
    assert "| delays | `ddp` | `torchft` | `hivemind` | `auto` | fastest of all |" in lines
    assert "| exponential | 14.0 (12.0-16.0) |  | > 20 | 7.0 (6.0-8.0) | `osgc`, 4.5 |" in lines
    assert "![times faster than DDP, by delays](img/first.png)" in lines
    assert (tmp_path / "img" / "first.png").stat().st_size > 5000


def test_without_our_scheme_there_is_none(tmp_path: Path) -> None:
    assert first_screen(runs("none", "ddp", 1.0), tmp_path / "RESULTS.md", tmp_path) == []


def test_without_ddp_there_is_no_picture(tmp_path: Path) -> None:
    found = [*runs("none", "sync", 2.0), *runs("none", "auto", 1.0)]
    lines = first_screen(found, tmp_path / "RESULTS.md", tmp_path / "img")
    assert "| delays | `sync` | `auto` | fastest of all |" in lines
    assert not any(line.startswith("![") for line in lines)
    assert not (tmp_path / "img").exists()


def test_pictures_must_lie_below_their_page(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--pictures: found .*b; should be a folder in that of the page"):
        report([tmp_path], tmp_path / "a" / "RESULTS.md", tmp_path / "b")
