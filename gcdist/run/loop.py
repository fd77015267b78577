"""The training script's loop over steps: what happens before the first, between two and after the last."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Protocol

from gcdist.run.accounts import Accounts
from gcdist.run.body_watch import BodyWatch
from gcdist.run.checkpoints import Checkpoints
from gcdist.run.step import Rounds, Step
from gcdist.run.user_state import generators_now, set_generators
from gcdist.types import RunHaltedError


class Looped(Rounds, Protocol):
    """What the loop needs of its run: `Cluster`."""

    finished: bool
    accounts: Accounts
    checkpoints: Checkpoints


class StepLoop:
    """Steps of one run, asked for once or several times.

    Args:
        run: whose steps they are.
        body: watches what the loop's body does.
        begin: waits for the workers, then lets the run's clock go (on).
        evaluate_if_due: runs the evaluation that the settings ask for after so many steps.
    """

    def __init__(
        self, run: Looped, body: BodyWatch, begin: Callable[[], None], evaluate_if_due: Callable[[], None]
    ) -> None:
        self._run = run
        self._body = body
        self._begin = begin
        self._evaluate_if_due = evaluate_if_due
        self._already = run.accounts.trained  # steps in the checkpoint, not yet asked for again
        self.body_generators: dict[str, Any] | None = None  # when the open step's loop body began; None: none is open

    def epochs(self, count: int, steps: Callable[[int], Iterator[Step]]) -> Iterator[tuple[int, Iterator[Step]]]:
        """The epochs that are left of ``count``; see `Cluster.epochs`. ``steps`` is the cluster's own."""
        each = self._run.steps_per_epoch
        left_out = min(count, self._already // each)
        if left_out == count:
            for _ in steps(count * each):  # nothing is left: this welcomes the workers, so that they can be released
                raise AssertionError("a finished run has no steps")
            return
        self._already -= left_out * each
        for epoch in range(left_out, count):
            yield epoch, steps(each)

    def steps(self, count: int) -> Iterator[Step]:
        """The next ``count`` steps, those of the checkpoint included; see `Cluster.steps`."""
        run, accounts, resumed = self._run, self._run.accounts, self._run.checkpoints.resumed
        done = min(count, self._already)
        self._already -= done
        if 0 < count == done and not accounts.ledger.running:
            with suppress(RunHaltedError):  # nothing is left to do: welcome the workers, so that they can be released
                self._begin()
        for number in range(count - done):
            if resumed is not None and not accounts.ledger.running:
                set_generators(resumed.state["generators"])
                if number == 0:  # the run may have ended between checkpoint and evaluation
                    self._evaluate_if_due()
            before, self.body_generators = accounts.next, generators_now()
            learned = accounts.estimated
            self._body.begin()
            try:
                yield Step(run, accounts.next)
            except GeneratorExit:  # break
                if not run.finished:
                    run.checkpoints.save_what_is_new()
                raise
            self.body_generators = None
            self._body.end(before, accounts.next > before, accounts.estimated > learned)
            if accounts.next > before:
                if run.checkpoints.due() or number == count - done - 1:
                    run.checkpoints.save_what_is_new()
                self._evaluate_if_due()
        if count > done and not accounts.estimated:
            raise RunHaltedError(f"nothing was learned: no gradient arrived in any of {accounts.trained} steps")
