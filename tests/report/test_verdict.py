"""The report's words name each slow worker and its reason, as a newcomer reads them."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from gcdist import Config, simulate
from gcdist.report import judge, read_run
from gcdist.tasks import load_task
from tests.report.made_runs import made_run

TROUBLED = {2: "link", 3: "computing", 5: "flaky", 7: "dead"}


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One simulated run with four troubled workers of eight: slow link, slow computing, flaky, dead."""
    folder = tmp_path_factory.mktemp("troubled") / "run"
    config = Config(
        seed=1,
        steps=100,
        cluster={"workers": 8, "silent_after": 1.5, "lost_after": 2.0},
        code={"scheme": "joint"},
        inject={"model": "shifted-exponential", "shift": [0.0, 0.0, 0.3, *[0.0] * 5], "mean": 0.01},
        simulate={"compute_seconds": 0.02, "bandwidth": 1e7},
        faults=[
            {"kind": "slow", "worker": 2, "step": 0, "seconds": 1e6, "rate": 3e3},
            *({"kind": "kill", "worker": 5, "step": step, "seconds": 0.5} for step in (20, 40, 60)),
            {"kind": "kill", "worker": 7, "step": 50},
        ],
    )
    task = load_task("least-squares", {}, 16, folder)
    with simulate(task, config, folder=folder, say=lambda kind, text: None) as cluster:
        for step in cluster.steps(config.steps):
            step.backward()
    return folder


def test_four_troubled_workers_are_named_with_the_right_reasons(troubled: Path) -> None:
    verdict = judge(read_run(troubled))
    assert {each.worker: each.kind for each in verdict.troubles} == TROUBLED
    words = {each.worker: each.text for each in verdict.troubles}
    assert re.match(r"Worker 2 is slow because of its link: \d", words[2])
    assert "bit/s over both ways" in words[2]
    assert words[3].startswith("Worker 3 is slow because of its computing: 0.3")
    assert re.match(r"Worker 5 is flaky: it was lost 3 times and came back; away in \d+% of the steps\.", words[5])
    assert words[7].startswith("Worker 7 is dead: it was lost before step 51 (killed)")
    assert "Workers 2, 3, 5, 7 need a look." in verdict.headline
    assert verdict.state == "done"


def test_where_the_time_went_is_told_for_each_worker(troubled: Path) -> None:
    workers = {each.worker: each for each in judge(read_run(troubled)).workers}
    for each in workers.values():
        assert sum(each.parts.values()) == pytest.approx(1.0)
    assert workers[3].parts["other"] > 0.8  # the injected delay
    assert workers[2].parts["link"] > 0.1  # it has no rows soon, and is idle then
    assert workers[7].parts["away"] > 0.2
    assert workers[1].parts["link"] < 0.2
    assert workers[2].held == pytest.approx(0.04, rel=0.5)
    assert workers[2].link > 5 * workers[1].link


def test_who_is_well_is_not_named(tmp_path: Path) -> None:
    verdict = judge(read_run(made_run(tmp_path / "run", 40, 4)))
    assert verdict.troubles == ()
    assert verdict.headline == (
        "40 steps in 20.0 s, 0.5 s a step; waiting for all workers would have taken 82.0 s (4.1 times). "
        "No worker stands out."
    )


def test_late_messages_tell_link_from_computing(tmp_path: Path) -> None:
    verdict = judge(read_run(made_run(tmp_path / "run", 40, 6, slow_link=4, slow=6)))
    words = {each.worker: each.text for each in verdict.troubles}
    assert words == {
        4: "Worker 4 is slow because of its link: 200 kbit/s over both ways. 2 s of its 2.2 s a round are on the link for "
        "50 kB (the faster workers: 50 ms), 0.21 s at the worker; it counted in 0 of 40 steps. The others waited 0.12 s a "
        "step for it.",
        6: "Worker 6 is slow because of its computing: 2 s of a round at the worker (the faster workers: 0.21 s), 0.9 s a "
        "partition (94 ms), 50 ms on the link; it counted in 0 of 40 steps. The others waited 0.12 s a step for it.",
    }


def test_states_of_a_run(tmp_path: Path) -> None:
    path = made_run(tmp_path / "run", 5, 2)
    run = read_run(path)
    assert run.state() == ("done", "")
    (path / "summary.json").unlink()
    assert read_run(path).state() == ("done", "")  # by its own end
    events = path / "events.jsonl"
    events.write_text("".join(events.read_text().splitlines(keepends=True)[:-1]))
    assert read_run(path).state() == ("running", "")
    assert read_run(path).state(now=time.time() + 3600)[0] == "done"  # it has all of its steps
    (path / "config.toml").write_text("steps = 500\n")
    assert read_run(path).state(now=time.time() + 3600) == ("halted", "its last line: worker 2 joined")
    with events.open("a") as file:
        file.write(
            f'{{"time": {time.time()}, "step": 4, "kind": "end", "text": "1 of at least 2", "finished": false}}\n'
        )
    assert read_run(path).state() == ("halted", "1 of at least 2")
    assert "The run was halted: 1 of at least 2." in judge(read_run(path)).headline
