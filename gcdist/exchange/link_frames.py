"""Small things that both ends of a link need: its settings, and text in frames."""

from __future__ import annotations

import numpy as np

from gcdist.exchange.setup import Setup
from gcdist.transport import Frame, LinkSettings
from gcdist.types import U8

DRAIN_SECONDS = 5.0  # a last word gets so long to leave a link that closes
BYTES_A_VALUE = 8  # at most, of a parameter or buffer in any format
BYTES_A_PARTITION = 128  # of assignments and losses, in text
SPARE_BYTES = 1 << 16  # scales and headers of small models
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
    """The text that a frame carries."""
    return "" if frame.meta is None else frame.meta.tobytes().decode(errors="replace")


def bytes_of(text: str | bytes) -> U8:
    """Text or bytes as a frame carries them."""
    return np.frombuffer(bytearray(text.encode() if isinstance(text, str) else text), np.uint8)
