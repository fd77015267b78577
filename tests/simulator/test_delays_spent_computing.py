"""inject.where: a delay on the message leaves the worker free at once, one that is spent computing does not."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gcdist
from gcdist.config import ConfigError
from gcdist.master.driver import MasterDriver
from gcdist.master.round_result import RoundResult
from gcdist.master.scheme import Scheme
from gcdist.observe import WorkerRound
from gcdist.observe.times import read_rounds
from gcdist.straggler import FirstPartition, make_delays
from tests.simulator.test_faults_simulated import linear_task

STEPS, DEADLINE, SLOW = 40, 0.2, 1.0  # seconds
CODES: dict[str, dict[str, Any]] = {"whole": {"scheme": "osgc", "partial": False}, "partial": {"scheme": "osgc"}}


def run(folder: Path, where: str, **more: Any) -> tuple[list[gcdist.StepInfo], list[WorkerRound]]:
    """Four workers of two partitions each, the second one slow: its steps, and the lines of workers.jsonl."""
    steps = more.pop("count", STEPS)
    settings: dict[str, Any] = {
        "cluster": {"workers": 4},
        "code": {**CODES["whole"], "partitions": 8},
        "inject": {"model": "shifted-exponential", "shift": [0.05, SLOW, 0.05, 0.05], "where": where},
        "straggler": {"deadline": DEADLINE, "p": [0.05, 0.95, 0.05, 0.05]},
        "simulate": {"compute_seconds": 0.001},
    }
    config = gcdist.Config(**{**settings, **more})
    with gcdist.simulate(linear_task(), config, folder=folder, say=lambda kind, text: None) as cluster:
        infos = [step.backward() for step in cluster.steps(steps)]
    lines = (folder / "workers.jsonl").read_text(encoding="utf-8").splitlines()
    return infos, list(read_rounds(map(json.loads, lines)))


def rounds_of(rounds: list[WorkerRound], worker: int) -> list[int]:
    return sorted(each.step for each in rounds if each.worker == worker)


@pytest.mark.parametrize("cores", [0, 2])
def test_a_worker_that_is_late_by_computing_is_not_free_for_the_next_step(tmp_path: Path, cores: int) -> None:
    machine = {"simulate": {"compute_seconds": 0.001, "cores": cores}}
    by_message, message_lines = run(tmp_path / "message", "message", **machine)
    by_computing, computing_lines = run(tmp_path / "compute", "compute", **machine)
    took = by_computing[-1].seconds - by_computing[0].seconds
    # on the message: a round in every step (the last one has not ended). Computing: one partition after the other
    assert rounds_of(message_lines, 2) == list(range(STEPS - 1))
    found, load = rounds_of(computing_lines, 2), max(each.load for each in computing_lines if each.worker == 2)
    assert len(found) <= took / (SLOW / load) + 1
    assert min(b - a for a, b in pairwise(found)) >= 2
    for infos in (by_message, by_computing):  # nobody waits for it in either
        assert np.median([info.step_seconds for info in infos]) <= DEADLINE + 1e-9
        assert not any(2 in info.arrived for info in infos[1:])


def test_a_step_of_workers_in_time_takes_as_long_either_way(tmp_path: Path) -> None:
    waiting = {"straggler": {"deadline": "wait"}}
    runs = [run(tmp_path / where, where, **waiting)[0] for where in ("message", "compute")]
    assert [info.step_seconds for info in runs[0]] == pytest.approx([info.step_seconds for info in runs[1]], abs=0.01)
    assert runs[0][-1].step_seconds == pytest.approx(SLOW, abs=0.02)


def test_a_partial_row_is_cut_between_partitions_of_an_even_length(tmp_path: Path) -> None:
    """0.3 s over 3 partitions, cut at 0.25 s: two are in; the third goes on to its end, and the next step waits for it."""
    more = {
        "code": {**CODES["partial"], "partitions": 12},
        "inject": {"model": "shifted-exponential", "shift": [0.01, 0.3, 0.01, 0.01], "where": "compute"},
        "straggler": {"deadline": 0.25, "p": [0.05, 0.05, 0.05, 0.05]},
    }
    infos, lines = run(tmp_path, "compute", **more)
    done = [each.done or 0 for each in lines if each.worker == 2]
    assert done[0] == 2  # were the worker free at each cut, all steps would be as the first one
    assert min(done[1:6]) == 1
    assert sum(done) <= infos[-1].seconds / (0.3 / 3) + 1


def test_a_row_that_came_to_nothing_tells_of_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The partition that it had begun goes on: its worker is seldom in time, as is promised."""
    promised: dict[bool, list[float]] = {True: [], False: []}
    in_time: dict[bool, list[bool]] = {True: [], False: []}
    came = np.ones(4, bool)
    whole = MasterDriver.run_round

    def looked_at(driver: MasterDriver, step: int, scheme: Scheme) -> RoundResult:
        nonlocal came
        result, before = whole(driver, step, scheme), came
        came = np.isin(np.arange(4), [result.plan.worker_R[counted.row] for counted in result.counted])
        assert len(result.plan.worker_R) == 4
        for row, worker in enumerate(result.plan.worker_R.tolist()):
            if step >= 40:
                promised[bool(before[worker])].append(1 - result.terms.p_R[row])
                in_time[bool(before[worker])].append(bool(came[worker]))
        return result

    monkeypatch.setattr(MasterDriver, "run_round", looked_at)
    more: dict[str, Any] = {
        "code": CODES["partial"] | {"partitions": 4},
        "inject": {"model": "shifted-exponential", "shift": 0.01, "mean": 0.1, "where": "compute"},
        "straggler": {"deadline": 0.1},
    }
    run(tmp_path, "compute", count=240, **more)
    for before in (True, False):
        assert np.mean(promised[before]) == pytest.approx(np.mean(in_time[before]), abs=0.07)
    assert np.mean(in_time[True]) > np.mean(in_time[False]) + 0.1


def test_the_law_of_the_first_partition() -> None:
    delays = make_delays("shifted-exponential", 1, shift=0.2, mean=0.4)
    inside, outside = FirstPartition(delays, False, computing=True), FirstPartition(delays, False)
    assert inside.seconds(0, 3, 4.0, 7) == pytest.approx(delays.seconds(0, 3, 4.0, 7) / 4)
    assert outside.seconds(0, 3, 4.0, 7) == delays.seconds(0, 3, 4.0, 7)
    loads = np.array([1.0, 2.0, 4.0])
    assert inside.survival(0, loads, 0.3) == pytest.approx(np.exp(-(0.3 * loads - 0.2) / 0.4))
    assert outside.survival(0, loads, 0.3) == pytest.approx(np.exp(-(0.3 - 0.2) / 0.4))


def test_where_is_checked() -> None:
    with pytest.raises(ConfigError, match=r'inject.where: .*found "link"'):
        gcdist.Config(inject={"model": "shifted-exponential", "where": "link"})
    with pytest.raises(ConfigError, match=r'inject.where: found "compute"; the model "none" does not use it'):
        gcdist.Config(inject={"where": "compute"})


def test_a_throttled_worker_takes_as_much_longer_as_its_share_says(tmp_path: Path) -> None:
    throttle = {"kind": "throttle", "worker": 2, "step": 5, "seconds": 1.0, "share": 0.25}
    infos, _ = run(
        tmp_path,
        "message",
        inject={},
        faults=[throttle],
        straggler={"deadline": "wait"},
        simulate={"compute_seconds": 0.05},
    )
    usual, slow = infos[3].step_seconds, infos[5].step_seconds
    assert slow == pytest.approx(4 * usual, rel=0.05)
    assert infos[-1].step_seconds == pytest.approx(usual, rel=0.05)


@pytest.mark.parametrize("cores", [0, 8])
@pytest.mark.parametrize("foreseen", [True, False])
def test_a_partition_that_was_dropped_before_it_began_takes_no_time(tmp_path: Path, cores: int, foreseen: bool) -> None:
    """A partition of worker 2 takes 1 s for 10 steps of 0.1 s, and then 0.02 s: it is back when the one begun is over."""
    slow, lines = 10, ["step,w1,w2,w3,w4"]
    lines += [f"{step},0.04,{2.0 if step < slow else 0.04},0.04,0.04" for step in range(STEPS)]
    trace = tmp_path / "times.csv"
    trace.write_text("\n".join(lines), encoding="utf-8")
    more: dict[str, Any] = {
        "code": {**CODES["partial"], "partitions": 8},
        "inject": {"model": "trace", "file": trace, "where": "compute"},
        "straggler": {"deadline": 0.1, "p": [0.05, 0.5, 0.05, 0.05]},
        "simulate": {"compute_seconds": 0.0, "cores": cores, "pack_messages": not foreseen},
    }
    infos, _ = run(tmp_path / "run", "compute", **more)
    back = [info.step for info in infos if 2 in info.arrived]
    begun = next(info for info in infos if info.seconds >= 1.0).step  # when the first one, begun at 0 s, is over
    assert begun <= back[0] <= slow + begun + 1
    assert back == list(range(back[0], STEPS))
