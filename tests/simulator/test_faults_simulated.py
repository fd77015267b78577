"""Random faults on the virtual clock: whatever dies, stalls, lies or comes back, the master goes on, and counts right.

Each schedule draws a code, a number of workers and dozens of misfortunes: kills, stops, cuts, slow links, corrupt messages,
delays, departures, late joins, new plans, a busy master. `Spy` keeps an independent account of every step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import gcdist
from gcdist.coding import decoders, shifted, structured
from gcdist.exchange.injected_faults import FLOOD
from gcdist.exchange.shift import decode_row, move
from gcdist.master.aggregator import Aggregator
from gcdist.master.driver import MasterDriver, Record
from gcdist.protocol import MasterMachine, Peer
from gcdist.protocol.master_io import Accumulate, MasterEvent, MasterInstruction
from gcdist.protocol.messages import Fault
from gcdist.run.session import Session
from gcdist.simulator.world import simulated
from gcdist.types import Corruption, Plan, StepTerms
from tests.simulator.sim_spy import Spy

MAX_WAIT, LOST_AFTER = 3.0, 6.0
SEEN: Counter[str] = Counter()
CODES = ("osgc", "joint", "memory", "shifted", "partial-memory", "self-normalised", "sync")


class Points(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor]]):
    def __init__(self) -> None:
        rng = np.random.default_rng(3)
        self.x = torch.from_numpy(rng.standard_normal((36, 3)).astype(np.float32))
        self.y = torch.from_numpy(rng.standard_normal((36, 2)).astype(np.float32))

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.x[index], self.y[index]


DATA = Points()


def loss_fn(model: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return torch.nn.functional.mse_loss(model(batch[0]), batch[1])


def linear_task() -> gcdist.Task:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = torch.nn.Linear(3, 2)
    return gcdist.Task(model, DATA, loss_fn, batch_size=36)


class Run:
    """A simulated run that can be struck at any time, with its spy."""

    def __init__(self, workers: int, scheme: str, quantizer: str, seed: int, deadline: Any) -> None:
        config = gcdist.Config(
            seed=seed,
            cluster={
                "workers": workers,
                "min_workers": 1,
                "join_timeout": 500.0,
                "start_timeout": 2.0,
                "silent_after": 2.5,
                "lost_after": LOST_AFTER,
                "retry_most": 4.0,
            },
            code={"scheme": scheme, "partitions": workers + 2},
            quantizer={"name": quantizer, **({} if quantizer == "float32" else {"bits": 4})},
            inject={"model": "shifted-exponential", "shift": 0.1, "mean": 0.3},
            straggler={"deadline": deadline, "max_wait": MAX_WAIT, "warmup_steps": 1, "replan_every": 4, "window": 20},
            simulate={"latency": 0.01, "bandwidth": 1e5, "compute_seconds": 0.02},
        )
        self.session = Session.build(linear_task(), config, workers)
        self.record: Record = []
        self.lines: Counter[str] = Counter()
        self.driver, self.network = simulated(self.session, self.say, self.record)
        self.scheme = self.session.scheme(lambda plan, report, deadline: None)
        self.spy = Spy(self.session)
        self.next = 0
        self.over = False
        self.launch()

    def launch(self) -> None:
        """What a launcher does: look now and then, and start somebody when nobody is left."""
        if not self.over and not any(worker.inc >= 0 for worker in self.network.workers.values()):
            self.start(0)
        self.network.clock.at(self.network.now() + 5.0, self.launch, pressing=False)

    def say(self, kind: str, text: str) -> None:
        assert "\n" not in text
        self.lines[kind] += 1

    def step(self) -> None:
        before = self.network.now()
        result = self.driver.run_round(self.next, self.scheme)
        assert result.step == self.next
        assert result.seconds <= MAX_WAIT + 1e-6
        # waiting for somebody to be there included: the longest cut, its loss and the way back
        assert self.network.now() - before < 60.0
        self.spy.take(self.record, result)
        self.record.clear()
        self.next += 1

    def start(self, slot: int) -> None:
        """A new process in the place of one that is gone, as a launcher would start it."""
        worker = self.network.workers[slot]
        if worker.inc < 0:
            worker.kill(0.0)

    def strike(self, slot: int, fault: Fault) -> None:
        SEEN[fault.kind] += 1
        if fault.kind == "corrupt":
            SEEN[fault.what] += 1
        self.network.inject(Peer(slot, self.network.workers[slot].inc), self.next, fault)

    def calm(self, steps: int) -> None:
        """No faults any more, everybody here; then so many steps."""
        for _ in range(20):
            for slot in self.network.workers:
                self.start(slot)
            until = self.network.now() + 10.0
            while self.network.now() < until:
                event = self.network.next(until)
                self.driver._feed(event)
            if self.driver.machine.members.live().all():
                break
        assert self.driver.machine.members.live().all()
        self.spy.take(self.record, None)
        self.record.clear()
        for _ in range(steps):
            self.step()

    def compare_shifts(self) -> int:
        """h_row bit for bit at both ends, with the verdict that is on its way; how many were compared."""
        compared, aggregator, spy = 0, self.driver.aggregator, self.spy
        assert set(aggregator._h) == set(spy.h)
        for row, peer in spy.holder.items():
            worker = self.network.workers[peer.worker]
            assert worker.inc == peer.inc
            mine, theirs = aggregator.shift_of(row), worker.rows.shift_of(row)
            assert mine is not None
            assert np.allclose(mine, spy.h[row], rtol=1e-4, atol=1e-6)
            theirs = np.zeros_like(mine) if theirs is None else theirs.copy()
            version = worker.driver.machine._held[row].version
            assert spy.version[row] - version in (0, 1)
            if spy.version[row] == version + 1:
                sent = worker.rows._pending[row]
                message = np.zeros_like(mine)
                layout, seed = self.session.state.layout, self.session.config.seed
                decode_row(self.session.quantizer, layout, sent.payload, sent.bits, seed, sent.step, row, message)
                move(theirs, message, self.driver.machine._shifts[row].beta, np.zeros_like(mine))
            assert np.array_equal(mine, theirs)
            compared += 1
        return compared

    def check_what_is_held(self) -> None:
        """Nothing at master, workers or network grows with time: one entry a worker, row or partition."""
        machine, driver, network = self.driver.machine, self.driver, self.network
        n, k = self.session.workers, len(self.session.sizes_K)
        members, installed = machine.members, machine._installed
        assignments = {} if installed is None else installed.assignments
        by_worker: list[Any] = [members.standing, members._newest, assignments, driver._sent]
        by_worker += [machine._shifts, driver.aggregator._h, driver.aggregator._counted, network.trouble._states]
        by_worker += [worker.rows._h for worker in network.workers.values()]
        assert max(map(len, by_worker)) <= n
        assert max(len(machine._failures), len(driver._failed)) <= k
        assert len(network._wires) <= 2 * n
        under_way = sum(len(wire) for wire in network._wires.values())
        simulated_workers: list[Any] = list(network.workers.values())
        waiting = sum(len(w._waiting) + len(w._tagged) + len(w.driver._row.begun) for w in simulated_workers)
        assert under_way <= 2 * FLOOD + 20 * n
        assert waiting <= 20 * n
        assert len(network.clock._heap) <= 2 * (under_way + 60 * n)


slots = st.integers(0, 5)
# multiples of a binary fraction are reached exactly, so that things happen at the same time
seconds = st.integers(1, 80).map(lambda n: n / 8)
faults = st.one_of(
    st.builds(lambda s: Fault("kill", seconds=s), st.none() | seconds),
    st.builds(lambda s: Fault("stop", seconds=s), seconds),
    st.builds(lambda s: Fault("cut", seconds=s), seconds),
    st.builds(lambda s, r: Fault("slow", seconds=s, rate=r), seconds, st.sampled_from([50.0, 500.0, 5e3])),
    st.builds(lambda what: Fault("corrupt", what=what), st.sampled_from(get_args(Corruption))),
    st.builds(lambda s: Fault("delay", seconds=s), seconds),
)


class Misfortunes(RuleBasedStateMachine):
    """Steps with faults between and within them."""

    run: Run
    codes: tuple[str, ...] = CODES

    @initialize(
        workers=st.integers(2, 6),
        code=st.integers(0, 59),
        quantizer=st.sampled_from(["rotated-dither", "dither", "float32"]),
        seed=st.integers(0, 2**31),
        deadline=st.sampled_from([0.4, 1.0, "auto", "wait"]),
        late=st.lists(st.tuples(slots, st.integers(1, 40).map(float)), max_size=3),
    )
    def begin(
        self, workers: int, code: int, quantizer: str, seed: int, deadline: Any, late: list[tuple[int, float]]
    ) -> None:
        scheme = self.codes[code % len(self.codes)]
        if scheme == "sync":
            deadline = "wait"
        self.run = Run(workers, scheme, quantizer, seed, deadline)
        for slot, after in late:
            self.run.network.workers[slot % workers].kill(after)
        SEEN["schedules"] += 1
        SEEN[scheme] += 1

    def slot(self, slot: int) -> int:
        return slot % self.run.session.workers

    @rule(count=st.integers(1, 3))
    def steps(self, count: int) -> None:
        for _ in range(count):
            self.run.step()

    @rule(slot=slots, fault=faults)
    def strike_as_a_step_opens(self, slot: int, fault: Fault) -> None:
        self.run.strike(self.slot(slot), fault)
        self.run.step()

    @rule(strikes=st.lists(st.tuples(st.integers(0, 64).map(lambda n: n / 32), slots, faults), min_size=1, max_size=4))
    def strike_at_any_time(self, strikes: list[tuple[float, int, Fault]]) -> None:
        run, now = self.run, self.run.network.now()
        for after, slot, fault in strikes:
            run.network.clock.at(now + after, partial(run.strike, self.slot(slot), fault), pressing=False)
        run.step()

    @rule(slot=slots)
    def terminate(self, slot: int) -> None:
        SEEN["terminate"] += 1
        self.run.network.workers[self.slot(slot)].terminate()
        self.run.step()

    @rule(slot=slots)
    def start_again(self, slot: int) -> None:
        self.run.start(self.slot(slot))

    @rule(pause=seconds)
    def the_master_is_busy(self, pause: float) -> None:
        SEEN["busy"] += 1
        self.run.network.inject(None, self.run.next, Fault("stop", seconds=pause))

    @rule()
    def plan_anew(self) -> None:
        self.run.scheme.outdated = True
        self.run.step()

    @precondition(lambda self: self.run.next > 3)
    @rule()
    def calm_down(self) -> None:
        self.run.calm(2)
        SEEN["shifts"] += self.run.compare_shifts()

    @invariant()
    def nothing_grows(self) -> None:
        if hasattr(self, "run"):
            self.run.check_what_is_held()

    def teardown(self) -> None:
        if not hasattr(self, "run"):
            return
        run = self.run
        run.calm(1)
        run.spy.heard.clear()
        for _ in range(60):  # everybody is here, and is heard by and by
            if len(run.spy.heard) < run.session.workers:
                run.step()
        assert len(run.spy.heard) == run.session.workers
        SEEN["shifts"] += run.compare_shifts()
        SEEN["messages"] += run.spy.messages
        SEEN["refused"] += run.spy.refused
        SEEN["steps"] += run.spy.steps
        run.over = True
        run.driver.stop("the end")
        until = run.network.now() + 60.0
        while run.network.now() < until:  # who joins now is told that it is over
            run.driver._feed(run.network.next(until))
        assert all(worker.is_over() for worker in run.network.workers.values())
        assert {worker.driver.exit.code for worker in run.network.workers.values() if worker.driver.exit} == {0}


KINDS = ("kill", "stop", "cut", "slow", "corrupt", "delay", "terminate", "busy")


def schedules(count: int, steps: int) -> settings:
    return settings(
        derandomize=True,
        deadline=None,
        max_examples=count,
        stateful_step_count=steps,
        phases=[Phase.generate],  # a schedule that fails is told as it is: shrinking takes minutes
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )


def run_schedules(count: int, steps: int, codes: tuple[str, ...] = CODES) -> Counter[str]:
    SEEN.clear()
    Misfortunes.codes = codes
    run_state_machine_as_test(Misfortunes, settings=schedules(count, steps))
    return SEEN


@pytest.mark.parametrize("code", CODES)
def test_whatever_happens_the_master_goes_on_and_counts_right(code: str) -> None:
    seen = run_schedules(25, 12, (code,))
    assert min(seen[kind] for kind in KINDS) > 0
    assert min(seen["messages"], seen["steps"]) > 200
    assert (seen["shifts"] > 0) == (code in ("memory", "shifted", "partial-memory"))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("code", CODES)
def test_thousands_of_schedules(code: str) -> None:
    seen = run_schedules(700, 25, (code,))
    assert seen["schedules"] >= 700
    assert min(seen[each] for each in (*KINDS, *get_args(Corruption), "refused")) > 0
    print(code, dict(seen))


def weight_of_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights by the plan's p and not by the promise of the step."""
    right = decoders.inverse_weights

    def wrong(plan: Plan, terms: StepTerms) -> Any:
        return right(plan, StepTerms(terms.deadline, plan.p_R))

    for module in (structured, shifted):
        monkeypatch.setattr(module, "inverse_weights", wrong)


def late_ones_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deadline that is handled late closes the step late."""
    right = MasterMachine.handle

    def handle(self: MasterMachine, event: MasterEvent) -> list[MasterInstruction]:
        if self._open is not None:
            self._open.closes += 0.05
        return right(self, event)

    monkeypatch.setattr(MasterMachine, "handle", handle)


def shifts_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row whose holder is gone stays in H."""
    monkeypatch.setattr(Aggregator, "take_out", lambda self, row: None)


def a_row_counts_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Aggregator.accumulate

    def accumulate(self: Aggregator, told: Accumulate) -> None:
        right(self, told)
        if not told.late and told.use.weight:
            self._add(told.body, told.row, told.use.weight)

    monkeypatch.setattr(Aggregator, "accumulate", accumulate)


def the_master_forgets_no_link(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it keeps for a link stays when the link is lost."""
    kept: dict[Any, Any] = {}
    right = MasterDriver._feed

    def feed(self: MasterDriver, event: MasterEvent) -> None:
        kept.update(self._sent)
        self._sent.update(kept)
        right(self, event)

    monkeypatch.setattr(MasterDriver, "_feed", feed)


@pytest.mark.parametrize(
    "mistake",
    [
        weight_of_the_plan,
        late_ones_count,
        shifts_stay,
        a_row_counts_twice,
        the_master_forgets_no_link,
    ],
)
def test_each_mistake_is_found_out(
    mistake: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mistake(monkeypatch)
    with pytest.raises(Exception):  # noqa: B017, PT011 an assertion of the spy, or what the mistake itself runs into
        run_schedules(120, 12)
