"""Image files as pixels: upright and at full brightness, as a viewer shows them.

Pillow's ``convert("RGB")`` clips grey of more than 8 bits at 0 and 255, so that 16-bit images become nearly white and float
images nearly black. Here the format's whole range becomes 0..255.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

Exif: TypeAlias = Literal["turn", "ignore"]
ORIENTATION, BITS, PHOTOMETRIC, SAMPLE_FORMAT = 274, 258, 262, 339  # tags of EXIF and TIFF
DEEP = ("F", "I", "I;16", "I;16B", "I;16L", "I;16N")  # Pillow's modes of grey with more than 8 bits
DARK = 1 / 16  # of the range: a largest value below it suggests 12-bit values in a 16-bit file
log = logging.getLogger("gcdist.coco")
_warned: set[str] = set()


class PixelsError(ValueError):
    """The file is an image, but cannot be used; the text follows the file's name."""


def open_image(path: Path, size: tuple[int, int], exif: Exif = "turn", wanted: int = 0) -> Image:
    """An image as it is shown: of mode RGB, or of mode F with grey in 0..255 that is not rounded.

    Args:
        path: of the file.
        size: width and height in the annotations.
        exif: "turn": turn the image as its orientation says, unless only the stored pixels have ``size``; "ignore": the
            pixels as they are stored.
        wanted: a JPEG may be decoded at a half, a quarter or an eighth with sides of at least so many pixels; 0: whole.

    Raises:
        PixelsError: another size, or values that have no agreed brightness.
        Exception: Pillow raises many kinds for a file that it cannot read.
    """
    import PIL.Image

    with PIL.Image.open(path) as opened:
        halved = ";16" in str(opened.tile)  # 16 bits a colour, of which Pillow reads the upper 8
        orientation = _orientation(opened)
        crossed = orientation >= 5  # width and height change places
        is_turned = opened.format == "TIFF"  # Pillow turns these itself while it loads them
        if is_turned:
            opened.load()
        shown = opened.size[::-1] if crossed and not is_turned else opened.size
        stored = shown[::-1] if crossed else shown
        turn = exif == "turn" and (size == shown or size != stored)
        if size != (shown if turn else stored):
            about = f" (stored as {stored[0]}x{stored[1]}, orientation {orientation})" if crossed else ""
            seen = shown if turn else stored
            raise PixelsError(f"is {seen[0]}x{seen[1]} pixels{about}, the annotations say {size[0]}x{size[1]}")
        if exif == "turn" and not turn:
            _warn_once(
                "orientation",
                f"{path}: is shown as {shown[0]}x{shown[1]} (orientation {orientation}), the annotations say "
                f"{size[0]}x{size[1]}, as it is stored: it is not turned",
            )
        if wanted and not is_turned:
            opened.draft("RGB", (wanted, wanted))
        image = _grey(opened, path) if opened.mode in DEEP else opened.convert("RGB")
    if halved and image.mode == "RGB":
        _check_dark(path, np.asarray(image).max(), 255)
    if turn == is_turned or orientation == 1:
        return image
    return image.transpose(_transposes()[orientation][1 if is_turned else 0])


def rgb(image: Image) -> Image:
    """The result of `open_image` in mode RGB."""
    import PIL.Image

    if image.mode == "F":
        image = PIL.Image.fromarray(np.asarray(image).round().astype(np.uint8))
    return image.convert("RGB")


def _orientation(image: Image) -> int:
    """1 (as it is) to 8; 1 if the file says something else."""
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except Exception:  # a damaged block: the pixels may be good
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _grey(image: Image, path: Path) -> Image:
    """Mode F: the range of the image's format as 0..255."""
    import PIL.Image

    tags: Any = getattr(image, "tag_v2", {})  # of a TIFF
    bits, signed = tags.get(BITS, (16,))[0], tags.get(SAMPLE_FORMAT, (1,))[0] == 2
    if image.mode == "F":
        full, kind = 1.0, "float"
    elif bits == 12:
        full, kind = 4095.0, "12-bit"
    elif signed and bits == 16:
        full, kind = 32767.0, "signed 16-bit"
    else:
        full, kind = 65535.0, f"{bits}-bit"
    values = np.asarray(image).astype(np.float64)
    low, high = values.min(), values.max()
    if not 0 <= low <= high <= full:  # NaN too
        raise PixelsError(f"has values from {low:g} to {high:g}; a {kind} image should have 0 to {full:g}")
    _check_dark(path, high, full)
    if tags.get(PHOTOMETRIC) == 0:  # 0 is white
        values = full - values
    return PIL.Image.fromarray((values * (255 / full)).astype(np.float32))


def _check_dark(path: Path, high: float, full: float) -> None:
    if high < DARK * full:
        _warn_once(
            "dark",
            f"{path}: its highest value is {high:g}, white is {full:g}: unless such files are scaled, they stay dark",
        )


def _transposes() -> dict[int, tuple[Any, Any]]:
    """By orientation: the transposition from the stored image to the shown one, and its inverse."""
    from PIL.Image import Transpose

    return {
        2: (Transpose.FLIP_LEFT_RIGHT, Transpose.FLIP_LEFT_RIGHT),
        3: (Transpose.ROTATE_180, Transpose.ROTATE_180),
        4: (Transpose.FLIP_TOP_BOTTOM, Transpose.FLIP_TOP_BOTTOM),
        5: (Transpose.TRANSPOSE, Transpose.TRANSPOSE),
        6: (Transpose.ROTATE_270, Transpose.ROTATE_90),
        7: (Transpose.TRANSVERSE, Transpose.TRANSVERSE),
        8: (Transpose.ROTATE_90, Transpose.ROTATE_270),
    }


def _warn_once(kind: str, text: str) -> None:
    """Only the first image of a kind is named, because a line for each would fill the log."""
    if kind not in _warned:
        _warned.add(kind)
        log.warning("%s (said once)", text)
