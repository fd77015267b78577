"""Injected faults in action: on a process, a message, or the floor of a step's time."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from gcdist.config import Config, ConfigError, FaultConfig
from gcdist.exchange.message import Message
from gcdist.protocol import Head
from gcdist.protocol.codec import Kind
from gcdist.protocol.messages import Fault
from gcdist.records import record_by_identity
from gcdist.straggler import FaultSchedule, Planned
from gcdist.transport import digest
from gcdist.types import F64, U8, Corruption, DelayModel

FLOOD = 300  # frames
DUTY_SECONDS = 0.1  # of a throttled process: stopped for a part of each, far below what makes a worker silent
_UNKNOWN = 77  # a kind of frame that means nothing


def fault_of(config: FaultConfig) -> Fault:
    """The fault of a table, without its time and worker."""
    return Fault(config.kind, config.seconds, config.rate, config.what or "payload", config.share)


def schedule_of(config: Config) -> FaultSchedule[Fault]:
    """The schedule of the settings' faults."""
    planned = [Planned(fault_of(each), each.worker, each.step, each.every) for each in config.faults]
    return FaultSchedule(planned, config.seed)


def drill(config: Config, fault: FaultConfig | Mapping[str, Any]) -> tuple[Fault, int | None]:
    """A fault that a script asks for, and the rank that it names; ConfigError if it cannot be."""
    given = fault.model_dump(exclude_none=True) if isinstance(fault, FaultConfig) else dict(fault)
    if "step" in given or "every" in given:
        raise ConfigError("inject: step and every are for [[faults]]; this one strikes at once")
    asked = Config(faults=[{**given, "step": 0}]).faults[0]
    if asked.worker != 0 and asked.kind not in {each.kind for each in config.faults}:
        raise ConfigError(f'inject: workers obey no "{asked.kind}" unless [[faults]] of the config names that kind')
    return fault_of(asked), asked.worker


def described(fault: Fault, rank: int) -> str:
    """One line for the log.

    >>> described(Fault("slow", seconds=5.0, rate=1e5), 2)
    'worker 2: slow for 5 s, 100000 bytes/s (injected)'
    """
    about = f" {fault.what}" if fault.kind == "corrupt" else ""
    about += f" for {fault.seconds:g} s" if fault.seconds is not None else ""
    about += f", {fault.rate:.0f} bytes/s" if fault.rate is not None else ""
    about += f", running {fault.share:.0%} of the time" if fault.share is not None else ""
    return f"{f'worker {rank}' if rank else 'the master'}: {fault.kind}{about} (injected)"


def strike_process(fault: Fault) -> None:
    """Kill or stop this very process; after a stop it returns when the process goes on."""
    if fault.kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    # a process of its own wakes this one up; a session of its own, or a signal to the group would end it
    wake = ["/bin/sh", "-c", 'sleep "$1"; kill -CONT "$2"', "waker", str(fault.seconds), str(os.getpid())]
    waker = subprocess.Popen(wake, stdin=subprocess.DEVNULL, start_new_session=True)
    os.kill(os.getpid(), signal.SIGSTOP)
    waker.wait()


def throttle_process(fault: Fault) -> None:
    """Let this very process run only ``share`` of the time, by SIGSTOP and SIGCONT in turns; returns at once.

    All of the process is slow then: computing, encoding, links. A process of its own does it, and ends with this one.
    """
    share, seconds = fault.share or 1.0, fault.seconds or 0.0
    turns = (
        '(i=0; while [ "$i" -lt "$4" ] && kill -STOP "$1"; do sleep "$2"; kill -CONT "$1"; sleep "$3"; i=$((i + 1)); done) '
        ">/dev/null 2>&1 &"
    )
    stopped, runs = f"{DUTY_SECONDS * (1 - share):.4f}", f"{DUTY_SECONDS * share:.4f}"
    command = ["/bin/sh", "-c", turns, "throttle", str(os.getpid()), stopped, runs, str(round(seconds / DUTY_SECONDS))]
    subprocess.run(command, stdin=subprocess.DEVNULL, start_new_session=True, check=True)


@record_by_identity
class Outgoing:
    """A message as it leaves. ``digest``: what the frame claims of its payload; None: the truth."""

    head: Head
    body: Message
    kind: int = Kind.MESSAGE
    digest: int | None = None


class Orders:
    """Faults that a worker was told of and that wait for their step or message. A `DelayModel` with the raised floor."""

    def __init__(self, delays: DelayModel) -> None:
        self._delays = delays
        self._raised: tuple[int, float] = (-1, 0.0)  # step, seconds
        self._what: Corruption | None = None
        self._asked: tuple[int, int, float, int] | None = None  # the newest arguments of `seconds` ...
        self._seconds = 0.0  # ... and the delay: a round asks once a partition

    def take(self, step: int, fault: Fault) -> None:
        """A "delay" raises the floor of ``step``; a "corrupt" changes the next message."""
        if fault.kind == "delay":
            self._raised = (step, fault.seconds or 0.0)
        elif fault.kind == "corrupt":
            self._what = fault.what

    def seconds(self, worker: int, step: int, load: float, seed: int) -> float:
        """The floor of this step."""
        asked = worker, step, load, seed
        if asked != self._asked:
            self._asked, self._seconds = asked, self._delays.seconds(worker, step, load, seed)
        raised, more = self._raised
        return self._seconds + (more if step == raised else 0.0)

    def survival(self, worker: int, load: F64, t: float) -> F64:
        """The law without the faults: no plan may know of them."""
        return self._delays.survival(worker, load, t)

    @property
    def corrupts(self) -> bool:
        """Whether the next message with a payload is another one than the true one."""
        return self._what is not None

    def outgoing(self, head: Head, body: Message) -> list[Outgoing]:
        """The message that is sent in place of the true one; a message without a payload (a probe) stays as it is."""
        what = self._what
        if what is None or not len(body.payload):
            return [Outgoing(head, body)]
        self._what = None
        return list(_corrupted(what, head, body))


def _corrupted(what: Corruption, head: Head, body: Message) -> Iterable[Outgoing]:
    payload = body.payload
    right = digest(payload)
    match what:
        case "payload":  # on the way: the checksum is of the right bytes
            yield Outgoing(head, _with(body, payload ^ np.uint8(1)), digest=right)
        case "checksum":
            yield Outgoing(head, body, digest=right ^ 1)
        case "size":
            yield Outgoing(head, _with(body, payload[:-1].copy()))
        case "plan":
            yield Outgoing(head._replace(plan_id=head.plan_id + 1), body)
        case "step":
            yield Outgoing(head._replace(step=head.step - 1), body)
        case "row":
            yield Outgoing(head._replace(row=head.row + 1), body)
        case "nan":  # whatever the format: a float of all ones is not a number
            yield Outgoing(head, _with(body, np.full_like(payload, 255)))
        case "garbage":
            noise = np.random.default_rng(head.step + 1).integers(0, 2**62, 6)
            yield Outgoing(Head(*(int(each) for each in noise)), _with(body, payload[::-1].copy()), _UNKNOWN)
        case "flood":
            yield from [Outgoing(head, body)] * FLOOD


def _with(body: Message, payload: U8) -> Message:
    return Message(payload, body.sidecar)
