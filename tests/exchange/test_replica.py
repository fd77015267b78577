"""Bodies and replicas of the way down: bytes, errors, and how fast the gap closes."""

from __future__ import annotations

import numpy as np
import pytest

from gcdist.exchange.replica import (
    Body,
    DifferenceCoder,
    Replica,
    ReplicaError,
    body_nbytes,
    most_differences,
    pack_round,
)
from gcdist.quantize import get_quantizer, noise_table
from gcdist.types import F32, Key, Layout, NonFiniteError

FLAT = Layout.flat(600)
NO_FLOATS, NO_INTS = np.zeros(0, np.float32), np.zeros(0, np.uint8)


def coder(name: str = "rotated-dither", bits: int = 4, seed: int = 0) -> DifferenceCoder:
    return DifferenceCoder(get_quantizer(name), bits, seed)


def vector(d: int, seed: int = 0) -> F32:
    return np.random.default_rng(seed).standard_normal(d, np.float32)


def two_ends(d: int = 600, bits: int = 4) -> tuple[Replica, Replica]:
    """A master's replica and a worker's, both at version 5."""
    return tuple(Replica(coder(bits=bits), 5, vector(d)) for _ in range(2))  # type: ignore[return-value]


@pytest.mark.parametrize("d", [1, 7, 512, 1000])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_body_comes_back_as_it_was(d: int, count: int) -> None:
    master, worker = two_ends(d)
    made = [master.coder.encode(vector(d, version), version, Layout.flat(d)) for version in range(6, 6 + count)]
    master.add(made, Layout.flat(d))
    floats, ints = np.arange(5, dtype=np.float32), np.arange(11, dtype=np.uint8)
    raw = pack_round(master, made, floats, ints, with_digest=True)
    assert len(raw) == body_nbytes(master.coder, Layout.flat(d), count) + 24 + 16  # buffers from multiples of 8
    body = worker.take(raw, 5 + count, 5 if count else None, Layout.flat(d))
    assert worker.vector.tobytes() == master.vector.tobytes()
    assert worker.version == 5 + count
    assert body.floats.tobytes() == floats.tobytes()
    assert body.ints.tobytes() == ints.tobytes()
    assert (body.digest is not None) == (count > 0)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_so_many_differences_are_smaller_than_all_parameters(bits: int) -> None:
    each, d = coder(bits=bits), Layout.flat(100_000)
    most = most_differences(each, d)
    assert body_nbytes(each, d, most) < body_nbytes(each, d, 0) <= body_nbytes(each, d, most + 1)
    assert 32 // bits - 2 <= most <= 32 // bits


def test_a_round_that_does_not_fit_is_refused_until_all_parameters_come() -> None:
    master, worker = two_ends()
    made = [master.coder.encode(vector(600, v), v, FLAT) for v in (6, 7)]
    master.add(made[:1], FLAT)
    first = pack_round(master, made[:1], NO_FLOATS, NO_INTS, with_digest=False)
    master.add(made[1:], FLAT)
    second = pack_round(master, made[1:], NO_FLOATS, NO_INTS, with_digest=False)
    with pytest.raises(ReplicaError, match="version 7 come as differences to 6, this worker has version 5"):
        worker.take(second, 7, 6, FLAT)
    with pytest.raises(ReplicaError, match="this worker has none"):
        worker.take(first, 6, 5, FLAT)
    worker.take(pack_round(master, [], NO_FLOATS, NO_INTS, with_digest=False), 7, None, FLAT)
    assert worker.vector.tobytes() == master.vector.tobytes()


def test_a_bit_that_differs_is_found_by_the_digest() -> None:
    master, worker = two_ends()
    worker.vector[17] += np.float32(0.01)
    for version, with_digest in ((6, False), (7, True)):
        made = [master.coder.encode(vector(600, version), version, FLAT)]
        master.add(made, FLAT)
        raw = pack_round(master, made, NO_FLOATS, NO_INTS, with_digest)
        if with_digest:
            with pytest.raises(ReplicaError, match="version 7 differ from the master's"):
                worker.take(raw, version, version - 1, FLAT)
            assert worker.version is None
        else:
            worker.take(raw, version, version - 1, FLAT)


def test_bytes_that_are_no_body_are_refused() -> None:
    master, worker = two_ends()
    made = [master.coder.encode(vector(600, 6), 6, FLAT)]
    raw = pack_round(master, made, NO_FLOATS, NO_INTS, with_digest=True)
    rng = np.random.default_rng(0)
    for cut in (0, 3, 48, len(raw) - 8):
        with pytest.raises(ReplicaError):
            worker.copy().take(raw[:cut].copy(), 6, 5, FLAT)
    refused = 0
    for _ in range(500):  # a damaged head never does more than ReplicaError
        wrong = raw.copy()
        wrong[rng.integers(64)] ^= np.uint8(1 << rng.integers(8))
        try:
            worker.copy().take(wrong, 6, 5, FLAT)
        except ReplicaError:
            refused += 1
    assert refused > 400


def test_the_versions_of_a_body_must_lead_to_the_round_s() -> None:
    master, worker = two_ends()
    made = [master.coder.encode(vector(600, 6), 6, FLAT)]
    master.add(made, FLAT)
    raw = pack_round(master, made, NO_FLOATS, NO_INTS, with_digest=False)
    with pytest.raises(ReplicaError, match="lead to version 6, not 7"):
        worker.take(raw, 7, 5, FLAT)


def test_what_is_not_finite_is_not_encoded() -> None:
    gap = vector(600)
    gap[3] = np.nan
    with pytest.raises(NonFiniteError):
        coder().encode(gap, 1, FLAT)


@pytest.mark.parametrize("name", ["rotated-dither", "dither", "bucket", "rotated", "eden", "qsgd", "bfloat16"])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8, 16])
def test_the_gap_to_a_fixed_point_closes_as_the_noise_law_says(name: str, bits: int) -> None:
    """``E|x - xr|^2`` shrinks by omega/(1+omega) a step: 20 steps keep 2/3 of the law's exponent."""
    each = coder(name, bits)
    d = 4096
    omega = noise_table(each.quantizer, d)[bits]
    if not np.isfinite(omega):
        pytest.skip(f"{name} does not take {bits} bits")
    x, replica, steps = vector(d), Replica(each, 0, np.zeros(d, np.float32)), 20
    first = float(x @ x)
    smallest = 1e-11 * first  # float32 keeps no more
    energy, before = first, first
    for step in range(1, steps + 1):
        replica.add([each.encode(x - replica.vector, step, Layout.flat(d))], Layout.flat(d))
        before, energy = energy, float(np.sum((x - replica.vector).astype(np.float64) ** 2))
        if energy < smallest:
            break
        assert energy <= before * min(1.0, 3 * omega / (1 + omega))
    wanted = step * np.log(omega / (1 + omega))
    found = np.log(max(energy, smallest) / first)
    assert found <= max(wanted, np.log(smallest / first)) / 1.5


def test_c_is_near_one_from_three_bits_up_and_small_where_noise_is_large() -> None:
    x = vector(8192)
    for bits, low, high in ((1, 0.1, 0.4), (3, 0.9, 1.0), (4, 0.97, 1.0), (8, 0.999, 1.0)):
        assert low < coder(bits=bits).encode(x, 1, Layout.flat(8192)).c <= high
    assert coder().encode(np.zeros(600, np.float32), 1, FLAT).c == 1.0


def test_rounding_draws_are_others_than_those_of_a_gradient() -> None:
    """The same vector, seed, step and row 0 as a worker's message gives other bytes."""
    each, x = coder("dither"), vector(1024)
    payload = np.zeros(each.nbytes(Layout.flat(1024)), np.uint8)
    each.quantizer.encode(x, 4, Key(0, 3, 0, 0), payload)
    assert each.encode(x, 3, Layout.flat(1024)).payload.tobytes() != payload.tobytes()


def test_counts_that_cannot_be_take_no_memory() -> None:
    raw = Body(600, vector(600), (), NO_FLOATS, NO_INTS).pack()
    raw[8:16] = 255 - (np.arange(8) == 7)  # so many differences
    raw[15] = 0x7F
    with pytest.raises(ReplicaError, match="counts that cannot be"):
        Replica(coder()).take(raw, 1, None, FLAT)
