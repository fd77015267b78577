from __future__ import annotations

import logging
import warnings

import pytest

from gcdist.observe.logs import BYTES_A_MINUTE, WINDOW
from gcdist.worker.log import RECORD_BYTES, RECORDS_KEPT, WorkerLog, heard, shortened


class Wire:
    """A link and a clock, both by hand."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sent: list[str] = []
        self.log = WorkerLog("rank3", self.sent.append, clock=lambda: self.now)


def test_one_text_is_under_way_at_a_time() -> None:
    wire = Wire()
    wire.log.ready()
    for text in ("a", "b", "c"):
        wire.log.add(text)
    assert wire.sent == ["a"]
    wire.log.ready()
    assert wire.sent == ["a", "b"]


def test_what_had_not_left_a_lost_link_goes_on_the_next_with_its_age() -> None:
    wire = Wire()
    wire.log.ready()
    wire.log.add("a")
    wire.log.lost()
    wire.log.add("b")
    wire.now = 12.0
    wire.log.ready()
    wire.log.ready()
    assert wire.sent == ["a", "(12 s ago) a", "(12 s ago) b"]


def test_without_a_link_the_last_texts_are_kept() -> None:
    wire = Wire()
    for number in range(RECORDS_KEPT + 50):
        wire.log.add(str(number))
    wire.log.ready()
    wire.log.last("done")
    assert wire.sent[0].startswith("50 lines were left out here ")
    assert wire.sent[1:] == [str(number) for number in range(50, RECORDS_KEPT + 50)] + ["done"]


def test_a_flood_is_cut_and_counted() -> None:
    wire = Wire()
    wire.log.ready()
    for _ in range(1000):
        wire.log.add("x" * 1024)
        wire.log.ready()
    assert sum(map(len, wire.sent)) == BYTES_A_MINUTE
    kept = len(wire.sent)
    wire.now = WINDOW
    wire.log.add("calm")
    wire.log.ready()
    assert wire.sent[-2].startswith(f"{1000 - kept} lines were left out here ")
    assert wire.sent[-1] == "calm"


def test_a_long_text_loses_its_middle() -> None:
    text = "begin " + "ä" * RECORD_BYTES + " end"
    short = shortened(text)
    assert len(short.encode()) <= RECORD_BYTES
    assert short.startswith("begin ")
    assert short.endswith(" end")
    assert "bytes left out" in short


def test_what_is_said_is_on_stderr_too(capsys: pytest.CaptureFixture[str]) -> None:
    wire = Wire()
    wire.log.say("the link is gone")
    assert capsys.readouterr().err == "gcdist worker rank3: the link is gone\n"


def speak() -> None:
    warnings.warn("strange data", UserWarning, stacklevel=1)
    logging.getLogger("mine").warning("row %d is empty", 7)
    logging.getLogger("mine").info("all is well")
    try:
        raise ValueError("bad row")
    except ValueError:
        logging.getLogger("mine").exception("skipped")


def test_warnings_and_records_are_heard_and_still_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = Wire()
    root = logging.getLogger()
    others = root.handlers
    root.handlers = []  # as in a process of its own
    shown: list[object] = []

    def show(*about: object) -> None:
        shown.append(about[0])

    try:
        with monkeypatch.context() as patch, warnings.catch_warnings():
            patch.setattr(warnings, "showwarning", show)
            warnings.simplefilter("always")
            with heard(wire.log):
                speak()
            assert warnings.showwarning is show
        assert root.handlers == []
    finally:
        root.handlers = others
    wire.log.ready()
    wire.log.last("done")
    first, second, third, _ = wire.sent
    assert "UserWarning: strange data" in first
    assert second == "WARNING mine: row 7 is empty"
    assert third.startswith("ERROR mine: skipped\nTraceback")
    assert third.endswith("ValueError: bad row")
    assert [str(warning) for warning in shown] == ["strange data"]
    assert capsys.readouterr().err.count("row 7 is empty") == 1


def test_a_user_s_own_handler_shows_alone(capsys: pytest.CaptureFixture[str]) -> None:
    wire = Wire()
    logger = logging.getLogger("mine.own")
    handler = logging.StreamHandler()
    logger.addHandler(handler)
    try:
        with heard(wire.log):
            logger.warning("once")
    finally:
        logger.removeHandler(handler)
    wire.log.ready()
    assert wire.sent == ["WARNING mine.own: once"]
    assert capsys.readouterr().err.count("once") == 1
