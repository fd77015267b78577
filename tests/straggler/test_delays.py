from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcdist.straggler import DELAYS, load_delays, make_delays
from gcdist.straggler.delays import GilbertElliott, uniform
from gcdist.types import DelayModel

TRACE = "round,worker_0,worker_1\n0,100,200\n1,300,400\n2,500,600\n"

PARAMS: dict[str, dict[str, Any]] = {
    "shifted-exponential": {"shift": [0.1, 0.2], "mean": [0.3, 0.0]},
    "pareto": {"scale": [0.1, 0.2], "shape": [1.5, 3.0]},
    "gilbert-elliott": {"shift": 0.1, "mean": 0.2, "slowdown": 5.0, "slow_share": 0.25, "slow_spell": 4.0},
}


def draw(model: DelayModel, worker: int, count: int, load: float = 1.0, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.array([model.seconds(worker, step, load, seed) for step in range(count)])


def test_uniforms_are_uniform_and_unrelated() -> None:
    # 40 bins of 1000: chi-square with 39 degrees is above 90 with probability 7e-6; 3 fixed sets of arguments
    for values in (
        [uniform(0, 0, step) for step in range(40_000)],
        [uniform(0, worker, 7) for worker in range(40_000)],
        [uniform(seed, 3, 7, 1) for seed in range(40_000)],
    ):
        counts = np.bincount((np.array(values) * 40).astype(int), minlength=40)
        assert ((counts - 1000.0) ** 2 / 1000).sum() < 90
    # correlation of neighbours: standard deviation 1/200; beyond 5 of them with probability 6e-7 each
    grid = np.array([[uniform(0, worker, step) for step in range(200)] for worker in range(201)]) - 0.5
    assert abs(np.mean(grid[1:] * grid[:-1]) * 12) < 5 / 200
    assert abs(np.mean(grid[:200, 1:] * grid[:200, :-1]) * 12) < 5 / 199
    assert 0 < uniform(2**62, 10**6, -5) < 1


@pytest.mark.parametrize("name", PARAMS)
@pytest.mark.parametrize("worker", [0, 1])
@pytest.mark.parametrize(("load", "scaled"), [(3.0, False), (1.0, True), (3.0, True)])
def test_survival_is_the_law_of_seconds(name: str, worker: int, load: float, scaled: bool) -> None:
    model = make_delays(name, 2, **PARAMS[name], scale_with_load=scaled)
    # spells of 4 steps: about 8 correlated steps; every 40th step is as good as independent
    stride = 40 if name == "gilbert-elliott" else 1
    seconds = np.array([model.seconds(worker, stride * step, load, 11) for step in range(4000)])
    for t in [0.0, *np.quantile(seconds, [0.05, 0.3, 0.6, 0.95]).tolist()]:
        law = model.survival(worker, np.array([load]), t)
        assert law.shape == (1,)
        # 90 comparisons beyond 5 sigma of the binomial: probability 5e-5 in all (t is a quantile: if anything closer)
        sigma = math.sqrt(max(law[0] * (1 - law[0]), 1e-9) / len(seconds))
        assert abs(np.mean(seconds > t) - law[0]) <= 5 * sigma + 1 / len(seconds)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    name=st.sampled_from(sorted(PARAMS)),
    worker=st.integers(0, 1),
    loads=st.lists(st.just(0.0) | st.floats(0.01, 50), min_size=1, max_size=5),
    t=st.floats(0, 20),
    scaled=st.booleans(),
)
def test_survival_is_a_probability_that_falls(
    name: str, worker: int, loads: list[float], t: float, scaled: bool
) -> None:
    model = make_delays(name, 2, **PARAMS[name], scale_with_load=scaled)
    load = np.array(loads)
    now, then = model.survival(worker, load, t), model.survival(worker, load, t + 0.1)
    assert np.all((now >= 0) & (now <= 1) & (then <= now))
    more = model.survival(worker, load + 1, t)
    assert np.all(more >= now)


def test_delays_depend_on_nothing_but_their_arguments() -> None:
    for name, params in PARAMS.items():
        first, second = make_delays(name, 2, **params), make_delays(name, 2, **params)
        backwards = [second.seconds(0, step, 1.0, 5) for step in reversed(range(50))]
        assert draw(first, 0, 50, seed=5).tolist() == backwards[::-1]
        assert draw(first, 0, 50, seed=5).tolist() != draw(first, 0, 50, seed=6).tolist()
        if name != "pareto":
            assert draw(first, 0, 50).tolist() != draw(first, 1, 50).tolist()


def test_load_scales_all_of_a_delay() -> None:
    for name, params in PARAMS.items():
        plain, scaled = make_delays(name, 2, **params), make_delays(name, 2, **params, scale_with_load=True)
        assert draw(scaled, 0, 20, load=4.0) == pytest.approx(4 * draw(plain, 0, 20, load=9.0))


def test_no_delay() -> None:
    model = make_delays("none", 3)
    assert model.seconds(2, 5, 1.0, 0) == 0.0
    assert model.survival(0, np.ones(2), 0.0).tolist() == [0.0, 0.0]


def test_spells_have_the_stated_share_and_length() -> None:
    model = make_delays("gilbert-elliott", 1, **PARAMS["gilbert-elliott"])
    assert isinstance(model, GilbertElliott)
    slow = np.array([model.slow(0, step, 3) for step in range(20_000)])
    spells = np.count_nonzero(slow[1:] & ~slow[:-1])
    # about 1250 spells: mean length and share within 5 standard errors, probability about 1e-6
    assert abs(slow.sum() / spells - 4.0) < 5 * math.sqrt(12 / 1250)
    # the variance of a mean of the chain is that of independent steps times (1 + r)/(1 - r), r = 1 - a - b = 2/3
    assert abs(slow.mean() - 0.25) < 5 * math.sqrt(0.25 * 0.75 * 5 / 20_000)


def test_a_trace_wraps_around(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(TRACE)
    model = make_delays("trace", 2, file=path, unit=0.001)
    assert draw(model, 1, 4).tolist() == pytest.approx([0.2, 0.4, 0.6, 0.2])
    assert model.seconds(0, 0, 1.0, seed=1) == pytest.approx(0.3)
    assert model.survival(0, np.array([1.0]), 0.3)[0] == pytest.approx(1 / 3)
    scaled = make_delays("trace", 1, file=path, unit=0.001, scale_with_load=True)
    assert scaled.seconds(0, 0, 2.0, seed=0) == pytest.approx(0.2)
    assert scaled.survival(0, np.array([1.0, 2.0, 6.0]), 0.4) == pytest.approx([1 / 3, 2 / 3, 1.0])


@pytest.mark.parametrize(
    ("name", "params", "line"),
    [
        ("paretto", {}, 'model: found "paretto"; did you mean "pareto"?'),
        ("shifted-exponential", {"mean": [1.0]}, "mean: found a list of 1 for 2 workers"),
        ("shifted-exponential", {"mean": -1.0}, "mean: found .* should be at least 0"),
        ("shifted-exponential", {"means": 1.0}, 'delay model "shifted-exponential" got an unexpected keyword .*means'),
        ("pareto", {"scale": 1.0, "shape": 0.0}, "shape: found .* should be above 0"),
        ("pareto", {"scale": 1.0}, 'delay model "pareto" missing .*shape'),
        ("gilbert-elliott", {"slow_share": 0.5, "slow_spell": 1.5}, "slow_spell: found 1.5; should be at least"),
        ("trace", {"file": "gone.csv"}, "file: gone.csv cannot be read: No such file"),
    ],
)
def test_mistakes_are_named(name: str, params: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        make_delays(name, 2, **params)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("round,a,b\n", "no recorded steps"),
        ("", "no recorded steps"),
        ("round,a,b\n0,1,2\n1,x,2\n", "line 3: should be 2 numbers of at least 0"),
        ("round,a,b\n0,1\n", "line 2"),
        ("round,a,b\n0,1,-2\n", "line 2"),
        ("round,a\n0,1\n", "has 1 workers; 2 are needed"),
    ],
)
def test_bad_traces_are_named(tmp_path: Path, text: str, line: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=line):
        make_delays("trace", 2, file=path)


def test_delays_are_loaded_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text(TRACE)
    path = tmp_path / "delays.toml"
    path.write_text('workers = 2\nmodel = "trace"\nfile = "trace.csv"\n')
    model, workers = load_delays(path)
    assert workers == 2
    assert model.seconds(0, 1, 1.0, 0) == 300.0
    for text, line in (
        ('model = "none"\n', "workers: found None; should be a whole number"),
        ("workers = 2\n", "allowed: none, shifted-exponential"),
        ("workers = = 2\n", "not valid TOML"),
        ('workers = 2\nmodel = "shifted-exponential"\nmean = "a"\n', "delays.toml: "),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=line):
            load_delays(path)
    with pytest.raises(ValueError, match="cannot be read"):
        load_delays(tmp_path / "gone.toml")


def test_every_model_is_tried() -> None:
    assert set(DELAYS) == {"none", "trace", *PARAMS}
