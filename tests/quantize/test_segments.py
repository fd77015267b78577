"""Segments: the values of one call each, one segment's bytes as ever, nothing crosses an edge, what is wrong is named."""

from __future__ import annotations

import numpy as np
import pytest

from gcdist.quantize import bits_allowed, decode, get_quantizer, get_segments, quantizer_names
from gcdist.quantize.grid_segments import GridSegments
from gcdist.quantize.looped_segments import LoopedSegments
from gcdist.types import F32, U8, Key, Layout, NonFiniteError, Quantizer

CUT = ("bucket", "dither", "rotated", "rotated-dither", "eden")
GRID = CUT[:4]
SIZES = [5000, 64, 64, 70_000, 10, 512, 513, 1, 4096, 3, 66_000]
LAYOUT = Layout.by_parameter(SIZES)


def vector(seed: int = 0) -> F32:
    """Parameters of very different size."""
    rng = np.random.default_rng(seed)
    x: F32 = np.concatenate([rng.standard_normal(d) * 10.0 ** (i % 5 - 2) for i, d in enumerate(SIZES)]).astype(
        np.float32
    )
    return x


def encoded(quantizer: Quantizer, layout: Layout, x: F32, bits: int, row: int = 3) -> U8:
    segments = get_segments(quantizer, layout)
    payload = np.full(segments.nbytes(bits), 0xAA, np.uint8)
    segments.encode(x, bits, 1, 2, row, payload)
    return payload


@pytest.mark.parametrize("name", quantizer_names())
def test_one_segment_has_the_quantizers_bytes(name: str) -> None:
    quantizer = get_quantizer(name)
    for bits in bits_allowed(quantizer):
        for d in (1, 13, 1300, 9001):
            x, payload = vector()[:d], np.empty(quantizer.nbytes(d, bits), np.uint8)
            quantizer.encode(x, bits, Key(1, 2, 3, 0), payload)
            segments = get_segments(quantizer, Layout.flat(d))
            assert segments.nbytes(bits) == len(payload)
            assert encoded(quantizer, Layout.flat(d), x, bits).tobytes() == payload.tobytes()
            np.testing.assert_array_equal(segments.noise(32)[bits], quantizer.noise(bits, d))


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("name", GRID)
def test_values_are_those_of_one_call_a_segment(name: str, bits: int) -> None:
    """Decoded, summed and reported alike, to the last bit of the decoded vector; lengths are equal."""
    quantizer, x = get_quantizer(name), vector()
    fast, slow = get_segments(quantizer, LAYOUT), LoopedSegments(quantizer, LAYOUT)
    assert isinstance(fast, GridSegments)
    assert fast.nbytes(bits) == slow.nbytes(bits)
    a, b = np.empty(fast.nbytes(bits), np.uint8), np.empty(slow.nbytes(bits), np.uint8)
    mine, theirs = fast.encode(x, bits, 1, 2, 3, a), slow.encode(x, bits, 1, 2, 3, b)
    assert mine.energy == pytest.approx(theirs.energy, rel=1e-9)
    assert mine.error == pytest.approx(theirs.error, rel=1e-9)
    fast.check(a, bits)
    u, v = np.empty_like(x), np.empty_like(x)
    fast.decode(a, bits, 1, 2, 3, u)
    slow.decode(b, bits, 1, 2, 3, v)
    assert u.tobytes() == v.tobytes()
    assert mine.error == pytest.approx(float(np.sum((u.astype(np.float64) - x) ** 2)), rel=2e-3)
    p, q = np.ones_like(x), np.ones_like(x)
    for segments, payload, out in ((fast, a, p), (slow, b, q)):
        sums = segments.sums(1, 2)
        sums.add(payload, bits, 3, 0.7)
        sums.add(payload, 0, 4, 1.0)  # a probe
        sums.finish(out, 2.0)
    np.testing.assert_allclose(p, q, rtol=1e-6)


@pytest.mark.parametrize("name", CUT)
def test_noise_does_not_cross_an_edge(name: str) -> None:
    """A parameter of 1e4 beside one of 1e-4: the small one keeps its relative noise, and a wide one has 2^-16."""
    quantizer = get_quantizer(name)
    layout = Layout.by_parameter([8192, 64, 2048, 90])
    rng = np.random.default_rng(0)
    x = rng.standard_normal(layout.d).astype(np.float32)
    x[:8192] *= 1e4
    x[8192:] *= 1e-4
    value = np.empty_like(x)
    get_segments(quantizer, layout).decode(encoded(quantizer, layout, x, 4), 4, 1, 2, 3, value)
    wrong = np.add.reduceat((value - x).astype(np.float64) ** 2, layout.edges[:-1])
    ratio = wrong / np.add.reduceat(x.astype(np.float64) ** 2, layout.edges[:-1])
    assert layout.wide_S.tolist() == [False, True, False, True]
    assert ratio[[0, 2]].max() < 0.06
    assert ratio[[1, 3]].max() < 2.0**-14
    decode(quantizer, _whole(quantizer, x), len(x), 4, Key(1, 2, 3, 0), value)
    if name not in ("bucket", "dither"):
        assert np.sum((value - x)[8192:] ** 2) > np.sum(x[8192:] ** 2)  # what a rotation of the whole vector does


def _whole(quantizer: Quantizer, x: F32) -> U8:
    payload = np.empty(quantizer.nbytes(len(x), 4), np.uint8)
    quantizer.encode(x, 4, Key(1, 2, 3, 0), payload)
    return payload


@pytest.mark.parametrize("name", quantizer_names())
def test_one_payload_added_at_once_is_what_a_sum_of_it_adds(name: str) -> None:
    quantizer, x = get_quantizer(name), vector()
    segments = get_segments(quantizer, LAYOUT)
    for bits in {bits_allowed(quantizer)[0], bits_allowed(quantizer)[-1]}:
        payload = encoded(quantizer, LAYOUT, x, bits)
        expected, at_once = x.copy(), x.copy()
        sums = segments.sums(1, 2)
        sums.add(payload, bits, 3, 0.3)
        sums.finish(expected)
        segments.add_decoded(at_once, payload, bits, 1, 2, 3, 0.3)
        assert at_once.tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", quantizer_names())
def test_a_sum_may_be_taken_as_it_is_and_in_given_memory(name: str) -> None:
    quantizer, x = get_quantizer(name), vector()
    segments, bits = get_segments(quantizer, LAYOUT), bits_allowed(quantizer)[-1]
    payload = encoded(quantizer, LAYOUT, x, bits)
    for scale in (1.0, 0.25):
        expected, room = np.zeros_like(x), np.full_like(x, np.nan)
        into, taken = segments.sums(1, 2), segments.sums(1, 2, room)
        for sums in (into, taken):
            sums.add(payload, bits, 3, 0.3)
            sums.add(payload, bits, 4, -0.5)
        into.finish(expected, scale)
        np.testing.assert_array_equal(taken.result(scale), expected)


@pytest.mark.parametrize("name", ["qsgd", "float32", "bfloat16"])
def test_what_has_no_local_scale_is_not_cut(name: str) -> None:
    quantizer, x = get_quantizer(name), vector()
    bits = bits_allowed(quantizer)[-1]
    assert encoded(quantizer, LAYOUT, x, bits).tobytes() == encoded(quantizer, Layout.flat(len(x)), x, bits).tobytes()


@pytest.mark.parametrize("name", CUT)
def test_a_coordinate_that_is_not_finite_is_found(name: str) -> None:
    segments = get_segments(get_quantizer(name), LAYOUT)
    for index in (0, 5001, 5130, 75_000, 75_135, LAYOUT.d - 1):
        for bad in (np.nan, -np.inf, 1e36):
            x = vector()
            x[index] = bad
            with pytest.raises(NonFiniteError) as caught:
                segments.encode(x, 4, 1, 2, 3, np.empty(segments.nbytes(4), np.uint8))
            assert caught.value.index == index


@pytest.mark.parametrize("name", ["rotated", "rotated-dither"])
def test_a_scale_that_overflows_is_of_its_segment(name: str) -> None:
    segments = get_segments(get_quantizer(name), LAYOUT)
    x = vector()
    x[:5000] = 4e34
    x[77] = -4.1e34
    x[5000] = 4.12e34  # larger, but of another parameter
    with pytest.raises(NonFiniteError) as caught:
        segments.encode(x, 4, 1, 2, 3, np.empty(segments.nbytes(4), np.uint8))
    assert caught.value.index == 77


@pytest.mark.parametrize("name", CUT)
def test_corrupt_payloads_are_refused(name: str) -> None:
    quantizer = get_quantizer(name)
    segments = get_segments(quantizer, LAYOUT)
    payload = encoded(quantizer, LAYOUT, vector(), 3)
    segments.check(payload, 3)
    for wrong in (payload[:-1], np.append(payload, np.uint8(0)), payload[:0]):
        with pytest.raises(ValueError, match="payload has"):
            segments.check(wrong, 3)
    broken = payload.copy()
    broken[:4] = np.frombuffer(np.float32(np.nan).tobytes(), np.uint8)
    with pytest.raises(ValueError, match="corrupt payload: scale 0"):
        segments.check(broken, 3)
    rng = np.random.default_rng(0)
    for _ in range(300):  # whatever passes is finite
        broken = payload.copy()
        broken[rng.integers(0, len(payload), 4)] = rng.integers(0, 256, 4)
        try:
            segments.check(broken, 3)
        except ValueError:
            continue
        value = np.empty(LAYOUT.d, np.float32)
        segments.decode(broken, 3, 1, 2, 3, value)
        assert np.isfinite(value).all()


def test_probes_have_no_bytes() -> None:
    for name in quantizer_names():
        segments, out = get_segments(get_quantizer(name), LAYOUT), np.ones(LAYOUT.d, np.float32)
        assert segments.nbytes(0) == 0
        segments.check(np.zeros(0, np.uint8), 0)
        segments.decode(np.zeros(0, np.uint8), 0, 1, 2, 3, out)
        assert not out.any()


def test_the_smallest_parameters_are_wide() -> None:
    """At most 1/64 of the coordinates; neighbours share a segment; one parameter, or only tiny ones, are not wide."""
    layout = Layout.by_parameter([32 * 100, 50, 51, 7000])
    assert layout.edges.tolist() == [0, 3200, 3301, 10301]
    assert layout.wide_S.tolist() == [False, True, False]
    wide = layout.sizes()[layout.wide_S].sum()
    assert 64 * wide <= layout.d
    assert not Layout.by_parameter([100_000, 513]).wide_S.any()  # a small matrix
    assert Layout.by_parameter([1_000_000, 900]).wide_S.tolist() == [False, True]
    assert Layout.by_parameter([50]).wide_S.tolist() == [False]
    assert Layout.by_parameter([1, 1]).wide_S.tolist() == [False, False]
    assert Layout.by_parameter([40, 1]).wide_S.tolist() == [False, True]
    assert Layout.by_parameter([100, 100]).edges.tolist() == [0, 100, 200]
