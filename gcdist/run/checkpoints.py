"""A run's checkpoints: when one is due, what is in it, and how a run goes on from one."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

from gcdist.config import ConfigError, checked
from gcdist.master.driver import MasterDriver
from gcdist.master.scheme import Scheme
from gcdist.run.accounts import Accounts
from gcdist.run.checkpoint import Checkpoint, good_checkpoints, write_checkpoint
from gcdist.run.resume import data_state
from gcdist.run.session import Session
from gcdist.run.user_state import Parts, check_model, generators_now, load_model, model_state
from gcdist.simulator.quiescence import Quiescence

COST_MOST = 0.01  # of the run's time, for checkpoints that come by the clock
AGAIN_SECONDS = 600.0  # between two lines that say why none is written
_WRONG = (KeyError, IndexError, TypeError, AttributeError, ValueError, RuntimeError)  # what wrong content leads to


class Checkpoints:
    """Writes a run's checkpoints, and restores the one that a resumed run begins with.

    Args:
        session: the run's parts.
        driver: its round loop.
        scheme: its code with its stop rule and plans.
        accounts: what it has come to.
        folder: of the run.
        standstill: brings a simulated run to rest; None: in processes, which a checkpoint never waits for.
        found: the checkpoint that the run goes on from.
        event: takes what only the run's events should have (kind, text).
        clock: monotonic seconds.
        must_be_ours: raises OSError where another run's folder stands in the place of this one's.

    Raises:
        ConfigError: neither that checkpoint nor one before it fits the run.
    """

    def __init__(
        self,
        session: Session,
        driver: MasterDriver,
        scheme: Scheme,
        accounts: Accounts,
        folder: Path,
        standstill: Quiescence | None = None,
        found: Checkpoint | None = None,
        event: Callable[[str, str], None] = lambda kind, text: None,
        clock: Callable[[], float] = time.monotonic,
        must_be_ours: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder = folder / "checkpoints"
        self._must_be_ours = must_be_ours
        self.at_rest = True  # no round is open, or was broken off
        self._session = session
        self._driver = driver
        self._scheme = scheme
        self._accounts = accounts
        self._standstill = standstill
        self._event = event
        self._clock = clock
        self._settings = session.config.checkpoint
        self._saved = 0  # steps trained, in the newest one
        self._broken_off = False  # somebody would not wait for one
        self._warned = False
        self._failed_at = float("-inf")
        self._last = clock()  # when the newest one was written, or the run began
        self._took = 0.0  # seconds that it took
        self.newest: Path | None = None
        self.resumed = None if found is None else self._restored(found)
        if self._settings.keep:  # what cannot be kept is said now, not at the first checkpoint
            checked("task", lambda: check_model(session.task.model))
        told = None if self.resumed is None else self.resumed.state
        self.parts = Parts() if told is None else Parts(told["parts"], told.get("kinds"))

    @property
    def behind(self) -> bool:
        """Whether a trained step is in no checkpoint yet."""
        return self._accounts.trained > self._saved

    def begin(self) -> None:
        """The workers are here: a simulated run comes to its checkpoint's rest, the run's clock goes on."""
        told = self.resumed.state if self.resumed is not None else None
        rest = None if told is None or told["scheme"] != self._session.code.name else told["standstill"]
        exact = self._standstill is not None and rest is not None
        if self._standstill is not None and told is not None and rest is not None:
            self._standstill.load_state_dict(rest, self._accounts.next)
            self._scheme.workers_remember(told.get("choices", {}))
        self._accounts.ledger.begin(same_clock=exact)
        self._last = self._clock()
        if self.parts.forgotten:
            self._driver.say(
                "warning", f"not tracked by this script, but in the checkpoint: {', '.join(self.parts.forgotten)}"
            )

    def due(self) -> bool:
        """Whether one is due after the step that has ended: by its number, else by the time since the last one."""
        every = self._settings.every
        if every or self._standstill is not None:  # a simulated run must not depend on this machine's time
            return bool(every) and self._accounts.next % every == 0
        minutes = self._settings.minutes
        return bool(minutes) and self._clock() - self._last >= max(60.0 * minutes, self._took / COST_MOST)

    def save_what_is_new(self, generators: dict[str, Any] | None = None) -> None:
        """Write one if steps were trained since the last one and any are kept; never raises an Exception.

        A run does not end because its checkpoint cannot be written, and an error that ends it is not hidden by another one:
        a line says why there is none, rarely again.
        """
        if not self._settings.keep or not self.behind or self._broken_off:
            return
        try:
            self.save(generators or generators_now())
        except Exception as error:
            if self._clock() - self._failed_at >= AGAIN_SECONDS:
                self._failed_at = self._clock()
                why = error if str(error) else type(error).__name__
                self._driver.say("warning", f"no checkpoint was written: {why}; the newest is {self._name_of_newest()}")
            self._last = self._clock()

    def save(self, generators: dict[str, Any]) -> Path:
        """Write one; StateError, OSError."""
        accounts, ledger = self._accounts, self._accounts.ledger
        if not self.parts.has_optimizer and not self._warned:
            self._warned = True
            text = "no optimizer is tracked (cluster.track(optimizer=...)): a resumed run begins with a new one"
            self._driver.say("warning", text)
        begun = self._clock()
        self._broken_off = True
        with ledger.pause("checkpoint"):
            if self._standstill is not None and ledger.running and self.at_rest:
                accounts.count_saved(*self._standstill.settle(accounts.next))
                self._scheme.outdated = True  # a resumed run needs a plan as well
        try:
            with ledger.pause("checkpoint"):  # another one: the first has its place in the state
                tensors, besides = model_state(self._session.task.model)
                state = {**self._state(), "model": besides, "generators": generators}
                self._must_be_ours()
                path = write_checkpoint(self.folder, accounts.next, tensors, state, max(1, self._settings.keep))
        except Exception:  # not what a second wish to end raises: then none is begun again
            self._broken_off = False
            raise
        self._broken_off = False
        if self._failed_at > float("-inf"):
            self._failed_at = float("-inf")
            self._driver.say("checkpoint", f"{path.name} is written: the disk takes checkpoints again")
        self._saved, self._last, self.newest = accounts.trained, self._clock(), path
        self._took = self._last - begun
        self._event("checkpoint", f"{path.name}: written in {self._took:.3g} s")
        return path

    def _name_of_newest(self) -> str:
        newest = self.newest or (self.resumed.path if self.resumed is not None else None)
        return "none" if newest is None else newest.name

    def _state(self) -> dict[str, Any]:
        """Everything but the model and the generators."""
        session, scheme = self._session, self._scheme
        rests = self._standstill is not None and self._accounts.ledger.running and self.at_rest
        return {
            "samples": len(session.task.dataset),
            "workers": session.workers,
            "scheme": session.code.name,
            "names": list(session.state.names),
            "plan_id": session.plan_ids.next,
            "data": data_state(session),
            "quantizer": _quantizer(session),
            "parts": self.parts.state_dict(),
            "kinds": self.parts.kinds,
            "rule": scheme.rule.state_dict(),
            "maker": scheme.maker.state_dict(),
            "choices": scheme.state_dict(),
            "accounts": self._accounts.state_dict(),
            "downlink": self._driver.downlink.state_dict(),
            "predictor": self._driver.aggregator.predictor(),
            "standstill": self._standstill.state_dict() if self._standstill is not None and rests else None,
        }

    def _restored(self, found: Checkpoint) -> Checkpoint:
        """Restore a checkpoint. One with wrong content is named in the log, and the one before it is tried."""
        older = good_checkpoints(self.folder, lambda line: self._driver.say("warning", line), before=found.path)
        for each in chain([found], older):
            try:
                self._restore(each)
            except ConfigError:
                raise
            except _WRONG as error:
                what = f"{type(error).__name__}: {error}"
                self._driver.say(
                    "warning", f"checkpoint {each.path} has wrong content ({what}); the one before is tried"
                )
                continue
            return each
        raise ConfigError(f"resume: no checkpoint in {self.folder} has content that fits")

    def _restore(self, found: Checkpoint) -> None:
        state, session, scheme = found.state, self._session, self._scheme
        model = session.task.model
        names, besides = list(state["names"]), dict(state["model"])
        checked("resume", lambda: load_model(model, found.model, besides, frozenset(names)))
        session.state.grow(names)
        self._driver.downlink.load_state_dict(state.get("downlink", {}))  # a checkpoint of before has none
        session.plan_ids.next = int(state["plan_id"])
        learned = dict(state["maker"])
        if state.get("quantizer", _quantizer(session)) != _quantizer(
            session
        ):  # what its errors came to, is not this one's
            learned = {name: value for name, value in learned.items() if name not in ("error", "expected")}
        scheme.maker.load_state_dict(learned)
        scheme.load_state_dict(state.get("choices", {}))
        anew = self._accounts.load_state_dict(found.step, state["accounts"])
        self._saved = self._accounts.trained
        if state["scheme"] == session.code.name:
            self._driver.aggregator.reshape(session.state.shape)
            self._driver.aggregator.restore({}, state["predictor"])
        Parts(state["parts"]), state["generators"]["torch"], state["standstill"]  # they are read later
        try:
            scheme.rule.load_state_dict(state["rule"])
        except ValueError as error:
            anew = str(error)
        if anew is not None:
            self._driver.say("settings", f"arrivals are learned anew: the checkpoint has {anew}")


def _quantizer(session: Session) -> list[Any]:
    """The quantizer whose noise was measured."""
    return [session.quantizer.name, {key: str(value) for key, value in session.config.quantizer.options.items()}]
