"""A message's sidecar: everything comes back, and a peer's bytes are believed only where they can be right."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gcdist.exchange.sidecar import Sidecar
from gcdist.model.buffer_updates import BufferUpdate
from gcdist.types import METRICS_MOST, WorkTimes


def sidecar(metrics: tuple[dict[str, float], ...] = ({"acc": 0.5, "top 5": 1.0}, {"acc": np.inf})) -> Sidecar:
    buffers = BufferUpdate(
        np.array([0.0, 0.25]), np.array([-np.inf, np.nan], np.float32), np.array([1, 2, 3], np.uint8)
    )
    parts = np.array([[3.0, 0.5, 0.25, 0.1], [7.0, 0.0, 0.0, 0.3]])
    return Sidecar(
        parts, 1.0, 0.5, 5.0, 6.0, 0.3, 0.2, 1.5, 1.0, 0.4, 0.1, 0.2, 0.3, buffers, np.array([True, False]), metrics
    )


def test_everything_comes_back() -> None:
    before = sidecar()
    after = Sidecar.unpack(before.pack())
    assert after.metrics_P == before.metrics_P
    assert after.parts_P4.tolist() == before.parts_P4.tolist()
    assert after.used.tolist() == [True, False]
    assert [part.tobytes() for part in after.buffers] == [part.tobytes() for part in before.buffers]
    assert (after.energy, after.error, after.cpu_seconds) == (1.0, 0.5, 0.3)
    assert after.times == WorkTimes((0.1, 0.3), 0.4)
    assert after.spread == 5.0 - 6.0 / 2
    assert Sidecar.unpack(sidecar(({}, {})).pack()).metrics_P == ()
    assert Sidecar.unpack(Sidecar(np.zeros((0, 4))).pack()).buffers.shares_B.size == 0


def with_losses(losses: list[list[float]]) -> Callable[[], Any]:
    return lambda: Sidecar(np.array([[*line, 0.0] for line in losses])).pack()


def with_names(*names: str) -> Callable[[], Any]:
    return lambda: sidecar(tuple(dict.fromkeys(names, 1.0) for _ in range(2))).pack()


def with_shares(share: float) -> Callable[[], Any]:
    return lambda: Sidecar(
        np.zeros((0, 4)), buffers=BufferUpdate(np.array([share]), np.zeros(0, np.float32), np.zeros(0, np.uint8))
    ).pack()


def with_counts(place: int, value: int) -> Callable[[], Any]:
    def make() -> Any:
        raw = sidecar().pack()
        raw[4 * place : 4 * place + 4] = np.frombuffer(struct.pack("<I", value), np.uint8)
        return raw

    return make


def not_text() -> Any:
    raw = sidecar().pack()
    raw[-3] = 0xFF
    return raw


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: sidecar().pack()[:20], "20 bytes, must be"),
        (lambda: sidecar().pack()[:-1], "its counts ask for"),
        (with_counts(5, 4_000_000_000), "4000000000 metrics, at most"),
        (with_counts(0, 4_000_000_000), "its counts ask for"),
        (with_losses([[0.0, np.nan, 0.5]]), "not finite"),
        (with_losses([[0.5, 1.0, 0.5]]), "whole number"),
        (with_losses([[-1.0, 1.0, 0.5]]), "whole number"),
        (with_losses([[1e300, 1.0, 0.5]]), "whole number"),
        (with_losses([[0.0, 1.0, -0.5]]), "from 0 to 1"),
        (with_losses([[0.0, 1.0, 1e300]]), "from 0 to 1"),
        (with_shares(-1.0), "from 0 to 1"),
        (with_shares(np.inf), "not finite"),
        (with_names(*(f"m{i}" for i in range(METRICS_MOST + 1))), f"at most {METRICS_MOST}"),
        (with_names("a" * 65), "printable text of 1 to 64"),
        (with_names("two\nlines"), "2 names for 1 metrics"),
        (with_names("\x1b[31mred"), "printable text"),
        (with_names("", "a"), "printable text"),
        (not_text, "not text"),
    ],
)
def test_bytes_that_are_no_sidecar(make: Callable[[], Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Sidecar.unpack(make())
