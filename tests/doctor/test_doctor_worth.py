"""Is a cluster worth coding: the verdict on times whose answer is known, and the record of a run."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from gcdist.doctor import recorded, worth
from gcdist.doctor.probe import probe
from gcdist.doctor.recorded import Recorded, from_csv, from_run
from gcdist.doctor.worth import Cost, Worth, _best, _uncoded, finding, weigh
from gcdist.observe import RunFolder, trace
from gcdist.observe.times import WorkerRound

RNG = np.random.default_rng(5)
STEPS, WORKERS = 200, 8


def test_equal_workers_gain_nothing() -> None:
    found = weigh(Recorded(1.0 + 0.02 * RNG.random((STEPS, WORKERS))))
    assert found.answer == "no"
    assert finding(found).level == "warn"


def test_somebody_who_is_slow_for_good_is_worth_a_code() -> None:
    seconds = 1.0 + 0.02 * RNG.random((STEPS, WORKERS))
    seconds[:, 3] *= 10
    found = weigh(Recorded(seconds))
    assert found.answer == "yes"
    assert min(found.gain("coded", regime) for regime in worth.REGIMES) > 4
    assert finding(found).level == "ok"
    assert found.as_dict()["gain"]["coded"]["agree"] == found.gain("coded", "agree")


def test_rare_and_long_waits_depend_on_the_gradients() -> None:
    mild = Cost(0.8, 0.01, 0.2, 0.9)
    found = Worth(8, 100, 1.0, {"agree": mild, "differ": mild}, {"agree": mild, "differ": mild}, False)
    assert found.answer == "it depends"
    assert "1.04 to 1.24 times" in finding(found).text


def test_waiting_is_always_a_choice() -> None:
    waiting = Cost(1.0, 0.0, 0.0, None)
    assert _best([None, Cost(0.9, 0.5, 0.5, 0.9)], waiting) == {"agree": waiting, "differ": waiting}
    for seed in range(3):
        seconds = np.random.default_rng(seed).exponential(1.0, (40, 5))
        found = weigh(Recorded(seconds))
        assert min(found.gain("deadline", regime) for regime in worth.REGIMES) >= 1.0
        assert min(found.gain("coded", regime) for regime in worth.REGIMES) >= 0.95  # it has to learn


def test_the_noise_without_a_code_is_the_formula_s() -> None:
    seconds = np.ones((STEPS, 2))
    seconds[: STEPS // 4, 0] = 3.0  # late in a quarter of the steps
    cost = _uncoded(seconds, 2.0)
    assert cost is not None
    c = np.array([0.25 / 0.75, 0.5 / (STEPS + 0.5)])  # the other one: the floor
    assert cost.agree == pytest.approx(c.sum() / 4)
    assert cost.differ == pytest.approx(c.mean())
    assert cost.seconds == pytest.approx(0.25 * 2 + 0.75 * 1)
    assert _uncoded(np.array([[1.0, 9.0]] * STEPS), 2.0) is None  # somebody never counts


def test_the_automatic_scheme_learns_who_is_slow() -> None:
    seconds = 1.0 + 0.02 * RNG.random((STEPS, WORKERS))
    seconds[:, 3] *= 10
    found = weigh(Recorded(seconds))
    # who knows the speeds needs 8 shares over 7.1 workers
    assert WORKERS / (WORKERS - 1 + 0.1) < found.coded["differ"].seconds < 1.35 * WORKERS / (WORKERS - 1 + 0.1)


def test_too_few_times() -> None:
    with pytest.raises(ValueError, match="19 steps of 3 workers are recorded"):
        weigh(Recorded(np.ones((19, 3))))
    with pytest.raises(ValueError, match="40 steps of 1 workers"):
        weigh(Recorded(np.ones((40, 1))))


def test_the_record_of_a_run(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as run:
        for step in range(30):
            arrivals = {1: 0.5, 2: 0.6} if step != 20 else {1: 0.5}
            run.trace.step(step, float(step), 0.7, arrivals, () if step != 20 else (2,))
        run.trace.step(30, 30.0, 0.5, {1: 0.5})  # worker 2 is away
    found = from_run(tmp_path)
    seconds = found.seconds_TN
    assert seconds.shape == (25, 2)
    assert found.least
    assert found.between == pytest.approx(0.3)
    np.testing.assert_allclose(seconds[0], [0.5, 0.6])
    np.testing.assert_allclose(seconds[15], [0.5, 0.707])
    whole = (tmp_path / "trace.json").read_bytes()
    (tmp_path / "trace.json").write_bytes(whole[: len(whole) // 2])  # killed while it wrote
    assert 5 < len(from_run(tmp_path).seconds_TN) < 25


def test_what_does_not_grow_with_the_load_is_not_gained(tmp_path: Path) -> None:
    """A worker with a slow link, twice the seconds of the other one: a third of its seconds cannot be given away."""
    with RunFolder(tmp_path) as run:
        for step in range(30):
            ends = ((1, 0.2), (2, 0.4))
            slow = WorkerRound(2, step, "counted", float(step), 0.9, 0.4, 0.4, 0.0, 2, 100, 100, 2, ends, 0.4)
            fast = WorkerRound(1, step, "counted", float(step), 0.42, 0.4, 0.4, 0.0, 2, 100, 100, 2, ends, 0.4)
            run.trace.step(step, float(step), 0.9, {1: 0.42, 2: 0.9}, rounds=(fast, slow))
    assert recorded.ROUNDS == trace.ROUNDS
    found = from_run(tmp_path)
    np.testing.assert_allclose(found.outside_N, [0.02, 0.5], atol=1e-5)
    np.testing.assert_allclose(found.seconds_TN, 0.4, atol=1e-5)
    assert found.between == pytest.approx(0.1, abs=1e-5)
    by_link = weigh(found)
    by_work = weigh(Recorded(found.seconds_TN + found.outside_N))
    assert by_link.wait == pytest.approx(1.0, abs=1e-4)
    # rows of 0.62 and 0.7 s are the best split of 0.8 s of work, and 0.1 s are between two steps
    assert 1.1 < by_link.gain("coded", "differ") <= 1.0 / 0.8 < by_work.gain("coded", "differ")


def test_records_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"trace\.json cannot be read: No such file"):
        from_run(tmp_path)
    (tmp_path / "trace.json").write_text("[\n")
    with pytest.raises(ValueError, match="no step in which all workers took part"):
        from_run(tmp_path)
    table = tmp_path / "t.csv"
    table.write_text("round,a,b\n0,1,2\n1,3,x\n")
    with pytest.raises(ValueError, match="line 3: should be 2 numbers"):
        from_csv(table)


def test_a_probe_is_a_short_run_that_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def run(command: list[str], **more: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        with RunFolder(tmp_path / "probe") as folder:
            for step in range(30):
                folder.trace.step(step, float(step), 0.7, {1: 0.5, 2: 0.6})
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr("gcdist.doctor.probe.subprocess.run", run)
    found = probe(tmp_path / "my.toml", 2, tmp_path)
    assert found.seconds_TN.shape == (25, 2)
    assert not found.least
    assert asked[0][5:7] == ["-n", "2"]
    assert {'code.scheme="sync"', 'straggler.deadline="wait"', f'out="{tmp_path}"'} <= set(asked[0])


def test_a_probe_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **more: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 2, "", "hello\nlr: should be above 0\n")

    monkeypatch.setattr("gcdist.doctor.probe.subprocess.run", run)
    with pytest.raises(ValueError, match=r"--probe: the run of my\.toml failed: lr: should be above 0"):
        probe(Path("my.toml"), 2, tmp_path)
