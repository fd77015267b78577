"""Image files as pixels: brightness of every format, orientation as it is shown."""

from __future__ import annotations

import logging
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gcdist.tasks import TaskError, load_task
from gcdist.tasks.coco import BrokenImageError, CocoImages, Splits, decode, open_index
from gcdist.tasks.coco.decode import Exif, PixelsError, open_image, rgb
from gcdist.tasks.coco.pictures import save_pictures
from tests.tasks.coco_files import annotation, image_entry, write_split

RAMP = np.tile(np.linspace(0, 255, 64).round().astype(np.uint8), (48, 1))  # (48, 64), black to white
SIZE = (64, 48)


@pytest.fixture(autouse=True)
def nothing_said_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "_warned", set())


def grey(image: Image.Image) -> np.ndarray[Any, Any]:
    values = np.asarray(image, np.float64)
    return values if values.ndim == 2 else values.mean(2)


def deep(mode: str) -> Image.Image:
    """The ramp over the whole range of a mode of more than 8 bits."""
    if mode == "F":
        return Image.fromarray((RAMP / 255).astype(np.float32))
    if mode == "I":
        return Image.fromarray(RAMP.astype(np.int32) * 257)
    return Image.fromarray((RAMP.astype(np.uint16) * 257).astype(">u2" if mode == "I;16B" else "<u2"))


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        ("I;16", "png"),
        ("I;16", "tiff"),
        ("I;16B", "png"),
        ("I;16B", "tiff"),
        ("I;16", "jp2"),
        ("I;16", "pgm"),
        ("I", "tiff"),
        ("I", "pgm"),
        ("F", "tiff"),
        ("F", "pfm"),
    ],
)
def test_deep_grey_is_scaled_not_clipped(tmp_path: Path, mode: str, suffix: str) -> None:
    file = tmp_path / f"deep.{suffix}"
    deep(mode).save(file)
    found = open_image(file, SIZE)
    assert found.mode == "F"
    np.testing.assert_allclose(grey(found), RAMP, atol=0.01)
    assert np.array_equal(grey(rgb(found)), RAMP)


@pytest.mark.parametrize("mode", ["L", "LA", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"])
def test_modes_of_8_bits_are_as_they_were(tmp_path: Path, mode: str) -> None:
    file = tmp_path / "image.tiff"
    made = Image.fromarray(RAMP)
    (made.convert("P").convert("PA") if mode == "PA" else made.convert("RGB").convert(mode)).save(file)
    with Image.open(file) as opened:
        assert opened.mode in (mode, "RGB")
    found = open_image(file, SIZE)
    assert found.mode == "RGB"
    np.testing.assert_allclose(grey(found), RAMP, atol=1)


def test_palette_and_bilevel_images(tmp_path: Path) -> None:
    Image.fromarray(RAMP).convert("P").save(tmp_path / "palette.png")
    assert np.array_equal(grey(open_image(tmp_path / "palette.png", SIZE)), RAMP)
    Image.fromarray(RAMP > 127).save(tmp_path / "two.png")
    assert np.array_equal(grey(open_image(tmp_path / "two.png", SIZE)), np.where(RAMP > 127, 255, 0))


def tiff(file: Path, pixels: np.ndarray[Any, Any], **tags: int) -> None:
    """A TIFF by hand: Pillow does not write all that it reads."""
    height, width = pixels.shape
    values = {256: width, 257: height, 258: 8 * pixels.itemsize, 259: 1, 262: 1, 273: 8, 277: 1, 278: height}
    values |= {279: pixels.nbytes, **{int(key[1:]): value for key, value in tags.items()}}
    entries = b"".join(
        struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, v) for tag, v in sorted(values.items())
    )
    folder = 8 + pixels.nbytes
    file.write_bytes(
        b"II*\0" + struct.pack("<I", folder) + pixels.tobytes() + struct.pack("<H", len(values)) + entries + bytes(4)
    )


def test_tiffs_say_their_range_and_which_end_is_white(tmp_path: Path) -> None:
    file = tmp_path / "image.tiff"
    tiff(file, RAMP.astype("<u2") * 257, t262=0)  # 0 is white, as in X-rays
    np.testing.assert_allclose(grey(open_image(file, SIZE)), 255 - RAMP.astype(float), atol=0.01)
    tiff(file, np.linspace(0, 32767, 64).round().astype("<i2")[None].repeat(48, 0), t339=2)
    np.testing.assert_allclose(grey(open_image(file, SIZE)), RAMP, atol=0.6)
    twelve = np.linspace(0, 4095, 64).round().astype(np.int64)[None].repeat(48, 0)
    bits = np.unpackbits(twelve.astype(">u2").view(np.uint8).reshape(48, 64, 2), axis=2)[:, :, 4:]
    tiff(file, np.packbits(bits.reshape(48, -1), axis=1), t256=64, t258=12)
    np.testing.assert_allclose(grey(open_image(file, SIZE)), RAMP, atol=0.6)
    assert np.array_equal(RAMP[0], np.linspace(0, 255, 64).round())


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.full((48, 64), 1.5, np.float32), r"has values from 1\.5 to 1\.5; a float image should have 0 to 1$"),
        (np.full((48, 64), -0.1, np.float32), "a float image should have 0 to 1"),
        (np.full((48, 64), np.nan, np.float32), "has values from nan to nan"),
        (np.full((48, 64), 70_000, np.int32), "has values from 70000 to 70000; a 32-bit image should have 0 to 65535"),
        (np.full((48, 64), -1024, np.int32), "should have 0 to 65535"),
    ],
)
def test_values_without_an_agreed_brightness_are_refused(
    tmp_path: Path, pixels: np.ndarray[Any, Any], message: str
) -> None:
    file = tmp_path / "image.tiff"
    Image.fromarray(pixels).save(file)
    with pytest.raises(PixelsError, match=message):
        open_image(file, SIZE)
    path = write_split(tmp_path, [image_entry(1, *SIZE, name="image.tiff")], [])
    with pytest.raises(BrokenImageError, match=rf"image\.tiff: .*{message}"):
        CocoImages(open_index(path, tmp_path / "cache"), tmp_path, 32)[0]


def deep_rgb(file: Path, values: np.ndarray[Any, Any]) -> None:
    """A PNG of 16 bits a colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape
    rows = b"".join(b"\0" + row.repeat(3).astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    file.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


def test_12_bit_values_in_a_16_bit_file_are_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    low = RAMP.astype(np.uint16) * 16
    Image.fromarray(low).save(tmp_path / "one.png")
    Image.fromarray(low).save(tmp_path / "two.png")
    with caplog.at_level(logging.WARNING):
        assert grey(open_image(tmp_path / "one.png", SIZE)).max() < 16
        open_image(tmp_path / "two.png", SIZE)
    assert (
        "one.png: its highest value is 4080, white is 65535: unless such files are scaled, they stay dark"
        in caplog.text
    )
    assert "two.png" not in caplog.text
    decode._warned.clear()
    deep_rgb(tmp_path / "colour.png", low)
    with caplog.at_level(logging.WARNING):
        open_image(tmp_path / "colour.png", SIZE)
    assert "colour.png: its highest value is 15, white is 255" in caplog.text
    deep_rgb(tmp_path / "whole.png", RAMP.astype(np.uint16) * 257)
    np.testing.assert_allclose(grey(open_image(tmp_path / "whole.png", SIZE)), RAMP)


# --- orientation ---

STORED = {  # by orientation: what a camera stores of an image as it is shown
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),  # shown turned by 90 degrees clockwise
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


def scene(width: int, height: int) -> np.ndarray[Any, Any]:
    """White with a black box at (4, 2), 12 x 6 pixels, which no turn leaves where it is."""
    pixels = np.full((height, width, 3), 255, np.uint8)
    pixels[2:8, 4:16] = 0
    return pixels


def photo(file: Path, shown: np.ndarray[Any, Any], orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](shown)))
    options: dict[str, Any] = {"quality": 95, "subsampling": 0} if file.suffix == ".jpg" else {}
    options |= {"lossless": True} if file.suffix == ".webp" else {}
    if file.suffix == ".tiff":
        stored.save(file, tiffinfo={274: orientation})
    else:
        stored.save(file, exif=exif, **options)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(48, 32), (40, 40)])
def test_images_are_turned_as_they_are_shown(
    tmp_path: Path, orientation: int, suffix: str, size: tuple[int, int]
) -> None:
    file = tmp_path / f"photo.{suffix}"
    shown = scene(*size)
    photo(file, shown, orientation)
    np.testing.assert_allclose(grey(open_image(file, size)), shown.mean(2), atol=30)
    stored = STORED[orientation](shown)
    there = (stored.shape[1], stored.shape[0])
    np.testing.assert_allclose(grey(open_image(file, there, "ignore")), stored.mean(2), atol=30)


@pytest.mark.parametrize("exif", ["turn", "ignore"])
def test_boxes_of_the_stored_pixels_get_the_stored_pixels(
    tmp_path: Path, exif: Exif, caplog: pytest.LogCaptureFixture
) -> None:
    for suffix in ("jpg", "tiff"):
        file = tmp_path / f"photo.{suffix}"
        photo(file, scene(48, 32), 6)
        with caplog.at_level(logging.WARNING):
            found = open_image(file, (32, 48), exif)
        np.testing.assert_allclose(grey(found), STORED[6](scene(48, 32)).mean(2), atol=30)
    said = "photo.jpg: is shown as 48x32 (orientation 6), the annotations say 32x48, as it is stored: it is not turned"
    assert (said in caplog.text) == (exif == "turn")
    assert caplog.text.count("is not turned") == (exif == "turn")


def test_another_size_names_the_orientation(tmp_path: Path) -> None:
    photo(tmp_path / "photo.jpg", scene(48, 32), 6)
    with pytest.raises(
        PixelsError, match=r"^is 48x32 pixels \(stored as 32x48, orientation 6\), the annotations say 50x50$"
    ):
        open_image(tmp_path / "photo.jpg", (50, 50))
    with pytest.raises(
        PixelsError, match=r"^is 32x48 pixels \(stored as 32x48, orientation 6\), the annotations say 48x32$"
    ):
        open_image(tmp_path / "photo.jpg", (48, 32), "ignore")


@pytest.mark.filterwarnings("ignore:.*orrupt EXIF data:UserWarning")  # Pillow's own
def test_a_damaged_orientation_does_not_lose_the_image(tmp_path: Path) -> None:
    file = tmp_path / "photo.jpg"
    for block in (b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0" + bytes(40), b"Exif\0\0no"):
        Image.fromarray(scene(48, 32)).save(file, exif=block)
        assert open_image(file, (48, 32)).size == (48, 32)
    photo(file, scene(48, 32), 1)
    exif = Image.Exif()
    exif[274] = 99
    Image.fromarray(scene(48, 32)).save(file, exif=exif)
    assert open_image(file, (48, 32)).size == (48, 32)


@pytest.mark.parametrize("orientation", [6, 8, 3, 5])
def test_a_photo_s_box_holds_what_is_in_it(tmp_path: Path, orientation: int) -> None:
    """Large enough that the JPEG is decoded at a part of its size, whole and in random views; as a picture too."""
    shown = np.full((600, 800, 3), 255, np.uint8)
    shown[100:250, 80:400] = 0
    path = write_split(tmp_path, [image_entry(1, 800, 600, "photo.jpg")], [annotation(1, 1, [80, 100, 320, 150])])
    photo(tmp_path / "train2017" / "photo.jpg", shown, orientation)
    index = open_index(path, tmp_path / "cache")
    for augment in (False, True):
        images = CocoImages(index, tmp_path / "train2017", 80, augment=augment)
        seen = 0
        for seed in range(12 if augment else 1):
            torch.manual_seed(seed)
            sample = images[0]
            assert sample is not None
            dark = torch.nonzero(sample[0].mean(0) < 0.4 * sample[0].max())
            if len(sample[1]["boxes"]) and len(dark):
                seen += 1
                (top, left), (bottom, right) = dark.amin(0).tolist(), dark.amax(0).tolist()
                np.testing.assert_allclose([left, top, right + 1, bottom + 1], sample[1]["boxes"][0], atol=2.0)
        assert seen >= (6 if augment else 1)

    class Nothing(torch.nn.Linear):
        def forward(self, images: Any) -> Any:
            return [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long(), "scores": torch.zeros(0)}]

    (file,) = save_pictures(Nothing(1, 1), CocoImages(index, tmp_path / "train2017", 80), tmp_path / "out", 1)
    with Image.open(file) as picture:
        assert picture.size == (800, 600)
        assert grey(picture)[175, 200] < 50


def test_splits_pass_the_choice_on(tmp_path: Path) -> None:
    write_split(tmp_path, [image_entry(1, 32, 48, "photo.jpg")], [annotation(1, 1, [2, 4, 6, 12])])
    photo(tmp_path / "train2017" / "photo.jpg", scene(48, 32), 6)
    assert Splits(tmp_path, tmp_path / "cache").images("train2017", 32, exif="ignore").exif == "ignore"
    with pytest.raises(TaskError, match="coco: exif must be one of turn, ignore, found 'upright'"):
        load_task("coco", {"root": str(tmp_path), "exif": "upright"}, 4, Path())
