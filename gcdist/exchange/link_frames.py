"""Parts that both ends of a link need: its settings, and text in frames."""

from __future__ import annotations

import numpy as np

from gcdist.exchange.setup import Setup
from gcdist.transport import Frame, LinkSettings
from gcdist.types import U8

DRAIN_SECONDS = 5.0  # a last word gets so long to leave a link that closes
BYTES_A_VALUE = 8  # at most, of a parameter or buffer in any format
BYTES_A_PARTITION = 128  # of assignments and losses, in text
SPARE_BYTES = 1 << 16  # scales and headers of small models
MOST_TEXT = 16 << 10  # bytes of an error, a reason or a batch of log lines
NOTHING: U8 = np.zeros(0, np.uint8)


def link_settings(setup: Setup) -> LinkSettings:
    """The links' timeouts from the settings; no frame is larger than all of the model needs, in either direction."""
    cluster, model = setup.config.cluster, setup.task.model
    values = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    return LinkSettings(
        beat=cluster.beat,
        silent_after=cluster.silent_after,
        lost_after=cluster.lost_after,
        piece_timeout=cluster.piece_timeout,
        max_bytes=BYTES_A_VALUE * values + BYTES_A_PARTITION * len(setup.sizes_K) + SPARE_BYTES,
    )


def text_of(frame: Frame) -> str:
    """The text that a frame carries, cut after ``MOST_TEXT`` bytes: whoever sends more fills no log and no terminal."""
    if frame.meta is None:
        return ""
    text = frame.meta[:MOST_TEXT].tobytes().decode(errors="replace")
    left_out = len(frame.meta) - MOST_TEXT
    return text if left_out <= 0 else f"{text} ... ({left_out} more bytes are left out)"


def short_text(text: str) -> str:
    """A text of any length and content as a frame may carry it to `text_of`.

    >>> short_text("bad \\udc80"), len(short_text("x" * 10**6))
    ('bad \\\\udc80', 16384)
    """
    return text[:MOST_TEXT].encode(errors="backslashreplace")[:MOST_TEXT].decode(errors="ignore")


def bytes_of(text: str | bytes) -> U8:
    """Text or bytes as a frame carries them."""
    return np.frombuffer(bytearray(text.encode() if isinstance(text, str) else text), np.uint8)
