"""Payloads: exact lengths, refusal of anything else, the same bits at both ends."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcdist.quantize import bits_allowed, decode, get_quantizer, quantizer_names
from gcdist.types import U8, Key, NonFiniteError

NAMES = quantizer_names()
CASES = [(name, bits) for name in NAMES for bits in bits_allowed(get_quantizer(name))]
settings.register_profile("fixed", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("fixed")


def encoded(name: str, bits: int, d: int, row: int = 0) -> U8:
    quantizer = get_quantizer(name)
    x = np.random.default_rng(d).standard_normal(d).astype(np.float32)
    out = np.full(quantizer.nbytes(d, bits), 0xAA, np.uint8)
    quantizer.encode(x, bits, Key(1, 2, row, 0), out)
    return out


@given(case=st.sampled_from(CASES), d=st.integers(0, 1700))
def test_every_length_round_trips(case: tuple[str, int], d: int) -> None:
    name, bits = case
    quantizer = get_quantizer(name)
    x = np.random.default_rng(d).standard_normal(d).astype(np.float32)
    out = np.full(quantizer.nbytes(d, bits), 0xAA, np.uint8)
    key = Key(1, 2, 3, 4)
    seen = quantizer.encode(x, bits, key, out)
    quantizer.check(out, d, bits)
    value = np.full(d, np.nan, np.float32)
    decode(quantizer, out, d, bits, key, value)
    assert seen.energy == pytest.approx(float(np.dot(x.astype(np.float64), x)), rel=1e-4)
    assert seen.error == pytest.approx(float(np.sum((value.astype(np.float64) - x) ** 2)), rel=1e-3, abs=1e-9)


@pytest.mark.parametrize(("name", "bits"), CASES)
def test_payload_holds_the_bits_and_the_stated_overhead(name: str, bits: int) -> None:
    quantizer = get_quantizer(name)
    scales = {
        "bucket": lambda d: -(-d // 512),
        "dither": lambda d: -(-d // 512),
        "qsgd": lambda d: min(d, 1),
        "rotated": lambda d: -(-d // 512),
        "rotated-dither": lambda d: -(-d // 512),
        "eden": lambda d: -(-d // 4096),
    }
    for d in (0, 1, 7, 511, 512, 513, 4096, 5000, 100_003):
        overhead = 4 * scales[name](d) if name in scales else 0
        assert quantizer.nbytes(d, bits) == -(-d * bits // 8) + overhead


@pytest.mark.parametrize(("name", "bits"), CASES)
@pytest.mark.parametrize("d", [1, 13, 512, 1300])
def test_accumulator_with_weight_one_gives_the_bits_of_decode(name: str, bits: int, d: int) -> None:
    quantizer, key = get_quantizer(name), Key(1, 2, 3, 0)
    payload = encoded(name, bits, d, row=3)
    value, summed = np.empty(d, np.float32), np.zeros(d, np.float32)
    decode(quantizer, payload, d, bits, key, value)
    sums = quantizer.accumulator(d, key)
    sums.add(payload, bits, 3, 1.0)
    sums.finish(summed)
    assert value.tobytes() == summed.tobytes()
    sums.finish(summed)  # empty now
    assert value.tobytes() == summed.tobytes()


@pytest.mark.parametrize(("name", "bits"), CASES)
def test_accumulator_is_the_weighted_sum(name: str, bits: int) -> None:
    quantizer, d = get_quantizer(name), 5003
    wanted, value = np.zeros(d), np.empty(d, np.float32)
    sums = quantizer.accumulator(d, Key(1, 2, 0, 0))
    for row, weight in ((0, 1.5), (4, -0.25), (2, 3.0)):
        payload = encoded(name, bits, d, row)
        sums.add(payload, bits, row, weight)
        decode(quantizer, payload, d, bits, Key(1, 2, row, 0), value)
        wanted += weight * value.astype(np.float64)
    out = np.ones(d, np.float32)
    sums.finish(out, 0.5)
    np.testing.assert_allclose(out, 1 + 0.5 * wanted, rtol=1e-5, atol=2e-5 * np.abs(wanted).max())


@pytest.mark.parametrize(("name", "bits"), CASES)
def test_payload_may_be_an_unaligned_view_of_immutable_bytes(name: str, bits: int) -> None:
    quantizer, d, key = get_quantizer(name), 1111, Key(1, 2, 0, 0)
    payload = encoded(name, bits, d)
    view = np.frombuffer(b"x" + payload.tobytes(), np.uint8)[1:]
    quantizer.check(view, d, bits)
    a, b = np.empty(d, np.float32), np.empty(d, np.float32)
    decode(quantizer, payload, d, bits, key, a)
    decode(quantizer, view, d, bits, key, b)
    assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize(("name", "bits"), CASES)
def test_corrupt_payload_is_refused(name: str, bits: int) -> None:
    quantizer, d = get_quantizer(name), 1111
    payload = encoded(name, bits, d)
    for wrong in (payload[:-1], np.append(payload, np.uint8(0)), payload[:0]):
        with pytest.raises(ValueError, match="payload has"):
            quantizer.check(wrong, d, bits)
    for value in (np.nan, np.inf, -np.inf):
        broken = payload.copy()
        broken[:4] = np.frombuffer(np.float32(value).tobytes(), np.uint8)
        with pytest.raises(ValueError, match="corrupt payload"):
            quantizer.check(broken, d, bits)
    if d * bits % 8:
        payload[-1] |= 0x80
        with pytest.raises(ValueError, match="corrupt payload: bits after"):
            quantizer.check(payload, d, bits)


@pytest.mark.parametrize(("name", "bits"), CASES)
def test_not_finite_is_refused(name: str, bits: int) -> None:
    quantizer = get_quantizer(name)
    for value in (np.nan, -np.nan, np.inf, -np.inf, 1e36, -1e36):
        for index in (0, 511, 700, 1110):
            x = np.ones(1111, np.float32)
            x[index:] = np.nan
            x[index] = value
            with pytest.raises(NonFiniteError) as caught:
                quantizer.encode(x, bits, Key(0, 0, 0, 0), np.empty(quantizer.nbytes(1111, bits), np.uint8))
            assert caught.value.index == index


@pytest.mark.parametrize("name", NAMES)
def test_keys_decide_the_bytes(name: str) -> None:
    quantizer = get_quantizer(name)
    bits = bits_allowed(quantizer)[0]
    x = np.random.default_rng(0).standard_normal(600).astype(np.float32)

    def payload(key: Key) -> bytes:
        out = np.empty(quantizer.nbytes(600, bits), np.uint8)
        quantizer.encode(x, bits, key, out)
        return out.tobytes()

    first = Key(1, 2, 3, 4)
    assert payload(first) == payload(Key(1, 2, 3, 4))
    if quantizer.noise(bits, 600) > 0:
        others = [Key(9, 2, 3, 4), Key(1, 9, 3, 4), Key(1, 2, 9, 4), Key(1, 2, 3, 9), Key(-1, 2, 3, 4)]
        assert len({payload(key) for key in [first, *others]}) == 6


@pytest.mark.parametrize("name", NAMES)
def test_wrong_arguments_are_named(name: str) -> None:
    quantizer, key = get_quantizer(name), Key(0, 0, 0, 0)
    bits = bits_allowed(quantizer)[0]
    x, out = np.ones(10, np.float32), np.empty(quantizer.nbytes(10, bits), np.uint8)
    with pytest.raises(ValueError, match="takes bits"):
        quantizer.encode(x, 9, key, out)
    with pytest.raises(ValueError, match="x must be a contiguous vector of float32; got float64"):
        quantizer.encode(x.astype(np.float64), bits, key, out)
    with pytest.raises(ValueError, match="x must be a contiguous vector"):
        quantizer.encode(np.ones(20, np.float32)[::2], bits, key, out)
    with pytest.raises(ValueError, match="out has"):
        quantizer.encode(x, bits, key, out[:-1])
