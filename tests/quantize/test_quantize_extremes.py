"""Huge, tiny and denormal values of either sign: refused at the worker, or a payload that is finite at the master."""

from __future__ import annotations

import numpy as np
import pytest

from gcdist.quantize import bits_allowed, decode, get_quantizer, quantizer_names
from gcdist.types import F32, Key, NonFiniteError

CASES = [(name, bits) for name in quantizer_names() for bits in bits_allowed(get_quantizer(name))]
MAGNITUDES = (1e-45, 1e-42, 1.2e-38, 1e-31, 1e-30, 1e30, 1e34, 4e34, 4.15e34, 4.2e34, 3.4e38)
KEY = Key(1, 2, 3, 4)


def patterns(d: int) -> dict[str, F32]:
    i = np.arange(d)
    found = {
        "constant": np.ones(d),
        "negative": -np.ones(d),
        "alternating": (-1.0) ** i,
        "one_hot": (i == d // 2) * 1.0,
        "negative_hot": (i == d // 2) * -1.0,
        "uniform": np.random.default_rng(0).uniform(-1, 1, d),
        "mixed": np.where(i % 7 == 0, -1.0, 1e-30),
    }
    return {name: x.astype(np.float32) for name, x in found.items()}


@pytest.mark.parametrize(("name", "bits"), CASES)
def test_what_is_not_refused_is_finite_at_the_master(name: str, bits: int) -> None:
    """What `encode` takes passes `check`, decodes to finite numbers, and its energy is right."""
    quantizer = get_quantizer(name)
    for d in (1, 13, 513, 4500):
        payload, value = np.empty(quantizer.nbytes(d, bits), np.uint8), np.empty(d, np.float32)
        for kind, pattern in patterns(d).items():
            for magnitude in MAGNITUDES:
                with np.errstate(under="ignore"):
                    x = pattern * np.float32(magnitude)
                try:
                    seen = quantizer.encode(x, bits, KEY, payload)
                except NonFiniteError as fault:
                    refused = fault.index
                else:
                    refused = -1
                if refused >= 0:
                    assert np.abs(x).max() >= 1e34, (kind, magnitude)
                    assert abs(x[refused]) in (np.abs(x).max(), next((a for a in np.abs(x) if a >= 2.0**115), None))
                    continue
                assert np.abs(x).max() < 2.0**115, (kind, magnitude)
                quantizer.check(payload, d, bits)
                decode(quantizer, payload, d, bits, KEY, value)
                assert np.isfinite(value).all(), (kind, magnitude)
                assert np.isfinite(seen.error)
                energy = float(np.sum(x.astype(np.float64) ** 2))
                assert seen.energy == pytest.approx(energy, rel=1e-3, abs=1e-70), (kind, magnitude)


@pytest.mark.parametrize("name", ["rotated", "rotated-dither"])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_rotation_that_overflows_the_scale_is_refused(name: str, sign: int) -> None:
    """4e34 is taken by itself; 4,096 of them become 2.6e36 in one coordinate."""
    quantizer, x = get_quantizer(name), np.zeros(9000, np.float32)
    x[4096:8192] = sign * 4e34
    x[5000] = sign * 4.1e34
    with pytest.raises(NonFiniteError) as caught:
        quantizer.encode(x, 4, Key(0, 0, 0, 0), np.empty(quantizer.nbytes(9000, 4), np.uint8))
    assert caught.value.index == 5000


@pytest.mark.parametrize(("name", "bits"), [case for case in CASES if case[0] not in ("float32", "bfloat16")])
def test_a_scale_that_would_overflow_at_the_master_is_refused(name: str, bits: int) -> None:
    """Whatever scale passes `check`, the decoded vector is finite, rotated back or not."""
    quantizer, d = get_quantizer(name), 4600
    payload, value = np.empty(quantizer.nbytes(d, bits), np.uint8), np.empty(d, np.float32)
    quantizer.encode(np.ones(d, np.float32), bits, KEY, payload)
    taken = 0
    scales = {"qsgd": 1, "eden": 2}.get(name, 9)
    for scale in np.float32(2.0) ** np.arange(100, 128, dtype=np.float32):
        payload[: 4 * scales].view(np.float32)[:] = scale
        payload[4 * scales :] = 0x77 if scale > 2**110 else 0xFF
        try:
            quantizer.check(payload, d, bits)
        except ValueError:
            continue
        taken += 1
        decode(quantizer, payload, d, bits, KEY, value)
        assert np.isfinite(value).all(), scale
    assert 0 < taken < 28


def test_bfloat16_refuses_what_it_would_not_send() -> None:
    quantizer = get_quantizer("bfloat16")
    largest = np.nextafter(np.float32(2.0**115), np.float32(0))
    payload = np.empty(2, np.uint8)
    for step in range(50):  # rounded up to 2^115 or down
        quantizer.encode(np.array([largest], np.float32), 16, Key(0, step, 0, 0), payload)
        quantizer.check(payload, 1, 16)
    payload[:] = np.frombuffer(np.float32(2.0**116).tobytes(), np.uint8)[2:]
    with pytest.raises(ValueError, match="corrupt payload: coordinate 0 is not finite"):
        quantizer.check(payload, 1, 16)
