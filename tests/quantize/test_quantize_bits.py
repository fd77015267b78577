"""Bits: packing, exact levels, the committed golden bytes, the kernels' cache."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcdist.quantize import bits_allowed, decode, get_quantizer, quantizer_names
from gcdist.quantize.jit import cache_folder
from gcdist.types import F32, Key

GOLDEN = Path(__file__).parent / "golden.json"
FIXED = settings(derandomize=True, deadline=None, max_examples=80)


@FIXED
@given(bits=st.integers(2, 8), d=st.integers(1, 1600), seed=st.integers(0, 99), exponent=st.integers(-140, 110))
def test_vectors_on_the_grid_come_back_exactly(bits: int, d: int, seed: int, exponent: int) -> None:
    """Any codes at any d survive packing: a vector made of levels has no noise."""
    short = 2 ** (bits - 1) - 1
    level = np.random.default_rng(seed).integers(-short, short + 2, d)
    level[::512] = short + 1
    level[1::512] = -short
    x = np.ldexp(level.astype(np.float32), exponent).astype(np.float32)
    quantizer, key = get_quantizer("bucket"), Key(seed, 0, 0, 0)
    if d % 512 == 1:  # a lone coordinate has its own scale
        x = x[:-1]
    payload, value = np.empty(quantizer.nbytes(len(x), bits), np.uint8), np.empty(len(x), np.float32)
    assert quantizer.encode(x, bits, key, payload).error == 0
    decode(quantizer, payload, len(x), bits, key, value)
    np.testing.assert_array_equal(value, x)


@pytest.mark.parametrize("bits", range(2, 9))
def test_zeros_stay_zero(bits: int) -> None:
    x = np.where(np.arange(3000) % 97 == 0, 1.7, 0).astype(np.float32)
    quantizer, value = get_quantizer("bucket"), np.empty(3000, np.float32)
    payload = np.empty(quantizer.nbytes(3000, bits), np.uint8)
    for step in range(50):
        quantizer.encode(x, bits, Key(0, step, 0, 0), payload)
        decode(quantizer, payload, 3000, bits, Key(0, step, 0, 0), value)
        assert not value[x == 0].any()


def golden_vector(d: int) -> F32:
    """Exact arithmetic only: the same bits on every machine."""
    i = np.arange(d, dtype=np.uint64)
    mixed = (i * np.uint64(2654435761)) % np.uint64(2**32)
    x: F32 = ((mixed.astype(np.float64) - 2.0**31) * 2.0 ** -(32 + i % np.uint64(5)).astype(np.float64)).astype(
        np.float32
    )
    return x


def golden_digests(name: str, bits: int, d: int) -> list[str]:
    """First bytes of SHA-256 of the payload, and of a weighted sum of two messages."""
    quantizer, x = get_quantizer(name), golden_vector(d)
    sums, out = quantizer.accumulator(d, Key(5, 6, 0, 7)), np.zeros(d, np.float32)
    digest = hashlib.sha256()
    for row, weight in ((0, 1.7), (3, -0.3)):
        payload = np.empty(quantizer.nbytes(d, bits), np.uint8)
        quantizer.encode(x, bits, Key(5, 6, row, 7), payload)
        digest.update(payload.tobytes())
        sums.add(payload, bits, row, weight)
    sums.finish(out, 1.25)
    return [digest.hexdigest()[:16], hashlib.sha256(out.tobytes()).hexdigest()[:16]]


@pytest.mark.parametrize("name", quantizer_names())
def test_golden_bytes(name: str) -> None:
    """Payloads and sums are the committed bytes, on every machine; a change of format must be meant."""
    golden = json.loads(GOLDEN.read_text())
    for bits in bits_allowed(get_quantizer(name)):
        for d in (13, 1300, 9001):
            assert golden_digests(name, bits, d) == golden[f"{name}/{bits}/{d}"], (bits, d)


def test_rows_are_added_from_several_threads() -> None:
    """Accumulators of different segments work at the same time and give the bits of one after the other."""
    quantizer, d = get_quantizer("dither"), 300_000
    x = golden_vector(d)
    payload = np.empty(quantizer.nbytes(d, 3), np.uint8)
    quantizer.encode(x, 3, Key(0, 0, 0, 0), payload)

    def summed(_: int) -> bytes:
        sums, out = quantizer.accumulator(d, Key(0, 0, 0, 0)), np.zeros(d, np.float32)
        for _ in range(5):
            sums.add(payload, 3, 0, 0.3)
        sums.finish(out)
        return out.tobytes()

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(summed, range(8)))) == 1


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    code = (
        "import logging, numpy as np; logging.basicConfig(); from gcdist.quantize import *; from gcdist.types import Key\n"
        "q = get_quantizer('float32'); out = np.empty(40, np.uint8)\n"
        "print(q.encode(np.ones(10, np.float32), 32, Key(0, 0, 0, 0), out).energy); warm(q)"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "file")}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "10.0"
    assert run.stderr.count("kernels are compiled anew in this process") == 1


def test_a_user_without_a_home_folder_has_no_cache(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def homeless(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "expanduser", homeless)
    assert cache_folder.__wrapped__() is None
    assert "kernels are compiled anew in this process: no cache (Could not determine home directory.)" in caplog.text


def test_kernels_are_kept_on_disk(tmp_path: Path) -> None:
    code = "from gcdist.quantize import *; warm(get_quantizer('float32'))"
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    first = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nbc")}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert first
    assert first == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nbc")}
