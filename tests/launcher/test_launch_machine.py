"""The launcher's decisions on a virtual clock."""

from __future__ import annotations

import signal

from gcdist.launcher.machine import Asked, Ended, Exit, Instruction, Machine, Say, Send, Start, Tick

KILLED = -signal.SIGKILL


def begun(workers: int = 2, max_restarts: int | None = None, restart_master: int = 0) -> Machine:
    machine = Machine(workers, max_restarts, restart_master)
    assert machine.begin(0.0) == [Start(rank) for rank in range(workers + 1)]
    return machine


def said(instructions: list[Instruction]) -> list[str]:
    return [told.text for told in instructions if isinstance(told, Say)]


def test_a_killed_worker_is_started_again_and_nobody_else_is_touched() -> None:
    machine = begun()
    assert said(machine.handle(Ended(20.0, 2, KILLED))) == [
        "worker 2 was killed by SIGKILL; starting it again in 0.5 s"
    ]
    assert machine.wakes == 20.5
    assert machine.handle(Tick(20.4)) == []
    assert machine.handle(Tick(20.5)) == [Start(2, again=1)]
    assert said(machine.handle(Ended(30.0, 2, 1))) == ["worker 2 ended with exit code 1; starting it again in 1 s"]


def test_a_worker_that_keeps_dying_is_given_up_and_the_run_goes_on() -> None:
    machine, now = begun(), 0.0
    for _ in range(4):
        machine.handle(Ended(now + 1.0, 1, 1))
        now = machine.wakes or 0.0
        assert machine.handle(Tick(now))
    assert said(machine.handle(Ended(now + 1.0, 1, 1))) == [
        "worker 1 ended with exit code 1; it is given up: it died 5 times in a row within 10 s of its start"
    ]
    assert machine.wakes is None
    assert machine.handle(Ended(now + 50.0, 2, 0)) == [Say("worker 2 has ended")]
    assert machine.handle(Ended(now + 60.0, 0, 0)) == [Exit(0)]


def test_a_worker_that_ended_well_or_was_refused_stays_away() -> None:
    machine = begun()
    assert said(machine.handle(Ended(5.0, 1, 0))) == ["worker 1 has ended"]
    assert said(machine.handle(Ended(5.0, 2, 2))) == [
        "worker 2 ended with exit code 2 (refused, or bad input); it is not started again"
    ]
    assert machine.wakes is None


def test_the_master_s_end_is_the_end_and_its_code_the_run_s() -> None:
    machine = begun(3)
    machine.handle(Ended(30.0, 3, KILLED))
    assert machine.handle(Ended(30.1, 0, 1)) == [Say("the master ended with exit code 1")]
    assert machine.handle(Ended(30.2, 1, 0)) == []  # released; the dead one is not started again
    assert machine.wakes == 33.1
    assert machine.handle(Tick(33.1)) == [Send(2, signal.SIGTERM)]
    assert machine.wakes == 43.1
    assert machine.handle(Tick(43.1)) == [Send(2, signal.SIGKILL)]
    assert machine.handle(Ended(43.2, 2, KILLED)) == [Exit(1)]


def test_a_killed_master_gives_the_code_of_a_shell() -> None:
    machine = begun(1)
    machine.handle(Ended(30.0, 0, KILLED))
    assert machine.handle(Ended(30.0, 1, 0)) == [Exit(137)]


def test_a_master_that_died_is_started_again_as_often_as_allowed() -> None:
    machine = begun(1, restart_master=1)
    assert said(machine.handle(Ended(30.0, 0, KILLED))) == [
        "the master was killed by SIGKILL; starting it again in 0.5 s"
    ]
    assert machine.handle(Tick(30.5)) == [Start(0, again=1)]
    assert said(machine.handle(Ended(60.0, 0, 1))) == [
        "the master ended with exit code 1; it is given up: no restart is left"
    ]
    assert machine.handle(Ended(61.0, 1, 0)) == [Exit(1)]


def test_a_master_that_ended_well_badly_or_was_stopped_is_not_started_again() -> None:
    for status, code in (
        (0, 0),
        (2, 2),
        (130, 130),
        (143, 143),
        (129, 129),
        (-signal.SIGINT, 130),
        (-signal.SIGTERM, 143),
    ):
        machine = begun(1, restart_master=5)
        assert machine.handle(Ended(30.0, 0, status)) == []
        assert machine.handle(Ended(30.1, 1, 0)) == [Exit(code)]


def test_a_signal_goes_to_the_master_alone_and_nobody_is_started_any_more() -> None:
    machine = begun()
    machine.handle(Ended(20.0, 2, KILLED))
    assert machine.handle(Asked(20.1, signal.SIGHUP))[1:] == [Send(0, signal.SIGTERM)]
    assert machine.wakes is None
    assert said(machine.handle(Ended(21.0, 1, KILLED))) == ["worker 1 was killed by SIGKILL"]
    assert machine.handle(Ended(40.0, 0, 143)) == [Exit(143)]


def test_ctrl_c_at_a_terminal_has_reached_the_master() -> None:
    machine = begun(1)
    assert len(said(machine.handle(Asked(5.0, signal.SIGINT, reached=True)))) == 1
    # the same wish by other ways: a group's stop, a launcher above
    assert machine.handle(Asked(5.1, signal.SIGINT)) == machine.handle(Asked(9.9, signal.SIGTERM)) == []
    assert machine.handle(Asked(10.1, signal.SIGINT, reached=True)) == [
        Send(0, signal.SIGKILL),
        Send(1, signal.SIGKILL),
    ]
    assert machine.handle(Ended(10.2, 1, KILLED)) == [Say("worker 1 was killed by SIGKILL")]
    machine.handle(Ended(10.2, 0, KILLED))


def test_a_run_whose_workers_are_all_gone_for_good_ends_and_not_well() -> None:
    for code in (0, 143, 1):
        machine = begun()
        assert not any(isinstance(told, Send) for told in machine.handle(Ended(1.0, 1, 2)))
        assert machine.handle(Ended(2.0, 2, 2))[1:] == [
            Say("no worker is left: asking the master to end"),
            Send(0, signal.SIGTERM),
        ]
        assert machine.handle(Ended(3.0, 0, code))[-1] == Exit(1)
    machine = begun()  # released: the master may evaluate for long
    assert machine.handle(Ended(1.0, 1, 0)) == [Say("worker 1 has ended")]
    assert machine.handle(Ended(1.0, 2, 0)) == [Say("worker 2 has ended")]


def test_a_signal_while_the_master_waits_for_its_start_ends_the_run() -> None:
    machine = begun(1, restart_master=1)
    machine.handle(Ended(30.0, 0, KILLED))
    assert [type(told) for told in machine.handle(Asked(30.1, signal.SIGTERM))] == [Say]
    assert machine.wakes == 33.1
    assert machine.handle(Asked(31.0, signal.SIGTERM)) == [Send(1, signal.SIGKILL)]
    assert machine.handle(Ended(31.0, 1, KILLED)) == [Exit(143)]


def test_a_lost_connection_is_made_again_however_often_it_breaks() -> None:
    machine, now = begun(), 0.0
    for _ in range(8):
        [told] = said(machine.handle(Ended(now + 1.0, 1, 255, "lost")))
        assert told.startswith("worker 1 has lost its connection; starting it again in")
        now = machine.wakes or 0.0
        assert machine.handle(Tick(now))
    assert told.endswith("in 30 s")


def test_a_host_that_was_never_reached_is_given_up() -> None:
    machine, now = begun(), 0.0
    for _ in range(4):
        machine.handle(Ended(now + 1.0, 1, 255, "unreached"))
        now = machine.wakes or 0.0
        machine.handle(Tick(now))
    assert said(machine.handle(Ended(now + 1.0, 1, 255, "unreached"))) == [
        "worker 1 could not be reached; it is given up: it died 5 times in a row within 10 s of its start"
    ]


def test_a_worker_s_own_mistake_ends_the_run_at_once() -> None:
    machine = begun()
    told = machine.handle(Ended(5.0, 2, 2, "mistake"))
    assert told == [
        Say("worker 2 ended with exit code 2 (its settings or its input are wrong): asking the master to end"),
        Send(0, signal.SIGTERM),
    ]
    machine.handle(Ended(5.5, 0, 143))
    assert machine.culprit == 2
    assert machine.handle(Ended(5.6, 1, 0)) == [Exit(2)]
    machine = begun()  # in a later life it is that life's alone
    machine.handle(Ended(20.0, 2, KILLED))
    machine.handle(Tick(20.5))
    assert not any(isinstance(told, Send) for told in machine.handle(Ended(25.0, 2, 2, "mistake")))
