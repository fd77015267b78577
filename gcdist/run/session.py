"""A run as its master holds it: what both ends build alike, and the code with its stop rule and plans."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gcdist.coding import code_options, get_code, least_noise
from gcdist.coding.auto import Auto
from gcdist.coding.partial_memory import PartialMemory
from gcdist.config import Config, ConfigError, checked
from gcdist.exchange.setup import Setup
from gcdist.master.auto_scheme import AutoScheme
from gcdist.master.plan_maker import Holds, PlanIds, PlanMaker
from gcdist.master.scheme import Scheme
from gcdist.planning import PlanReport
from gcdist.straggler import ArrivalRule, Arrivals, ChosenDeadline, FirstPartition, WaitForAll, WorkLaws, make_stop_rule
from gcdist.tasks import Task, TaskError, load_task
from gcdist.types import GradientCode, Plan

OnPlan = Callable[[Plan, PlanReport, float], None]


@dataclass(frozen=True, slots=True, eq=False)
class Session(Setup):
    """What the master needs besides `Setup`: the gradient code, and the numbers of its plans."""

    code: GradientCode
    plan_ids: PlanIds = field(default_factory=PlanIds)

    @staticmethod
    def build(task: Task, config: Config, workers: int) -> Session:
        """Check the settings against the task and make the parts; see `Setup.of`.

        Raises:
            ConfigError: what does not fit, in one line.
        """
        setup = Setup.of(task, config, workers, own=False)
        config = setup.config
        options = dict(config.code.options)
        if "allocation" in checked("code", lambda: code_options(config.code.scheme)):
            options.setdefault("allocation", config.code.allocation)
        code = checked("code", lambda: get_code(config.code.scheme, **options))
        if config.code.unbiased and not code.unbiased:
            raise ConfigError(f"code.unbiased: found true; the estimate of the scheme {code.name!r} is biased")
        session = Session(
            setup.task,
            config,
            workers,
            setup.state,
            setup.gradients,
            setup.quantizer,
            setup.delays,
            code,
            all_must_fit=setup.all_must_fit,
        )
        session.scheme(lambda plan, report, deadline: None)  # the settings of stop rule and code are checked here too
        return session

    def _holds(self) -> Holds:
        """As far as this process knows; what is wrong with it is refused where it joins."""
        k, slots = len(self.sizes_K), range(self.workers) if self.config.data.holds is not None else range(1)
        known = {slot: [j for j in self.held_by(slot) or () if j < k] for slot in slots}
        return {slot: held for slot, held in known.items() if held}

    @property
    def _grows(self) -> bool:
        """Whether a plan gives reliable workers more to compute, up to ``load_most`` times an even share."""
        return self.code.chooses_loads

    def scheme(self, on_plan: OnPlan) -> Scheme:
        """The configured scheme with its stop rule."""
        straggler = self.config.straggler
        deadline = straggler.deadline
        if isinstance(self.code, Auto) and deadline == "auto" and self._partial(self.code):
            return self._auto(on_plan)
        if deadline == "auto" and (self.code.waits or not self.code.unbiased):
            deadline = "wait"  # there is no F to tune by
        rule = checked(
            "straggler",
            lambda: make_stop_rule(
                workers=self.workers,
                deadline=deadline,
                **straggler.model_dump(exclude={"deadline", "replan_every"}),
                delays=self._first_partition() if self._partial(self.code) else self.delays,
                noise=partial(least_noise, share_most=self.config.code.load_most) if self._grows else None,
            ),
        )
        return self._scheme(self.code, rule, on_plan)

    def _first_partition(self) -> FirstPartition:
        inject = self.config.inject
        return FirstPartition(self.delays, inject.scale_with_load, inject.computing)

    def _auto(self, on_plan: OnPlan) -> Scheme:
        """The scheme that chooses by itself."""
        straggler = self.config.straggler
        p = straggler.p
        if not isinstance(p, str):
            raise ConfigError("straggler.p: found a list; it holds for one deadline: give seconds in place of auto")
        arrivals = Arrivals(self.workers, straggler.window, straggler.prior_p, straggler.prior_weight)
        rule = ChosenDeadline(arrivals, straggler.max_wait, p, self._first_partition())
        made = self._scheme(self.code, rule, on_plan)
        known_p = p != "measured"
        return AutoScheme(made.code, rule, made.maker, straggler.replan_every, on_plan, straggler.noise_most, known_p)

    def _partial(self, code: GradientCode) -> bool:
        """Whether rows of this code may be cut: as the settings say, or else as the code does by itself."""
        wanted = self.config.code.partial if code is self.code else None
        if wanted and code.partial is False:
            raise ConfigError(f"code.partial: found true; the rows of {code.name!r} cannot be cut")
        if wanted is False and isinstance(code, PartialMemory):
            raise ConfigError(f'code.partial: found false; {code.name!r} is for rows that are cut: take "shifted"')
        return bool(code.partial if wanted is None else wanted)

    def wait_for_all(self, on_plan: OnPlan) -> Scheme:
        """The baseline `sync` with the same partitions: waits for everybody."""
        given = self.config.straggler
        arrivals = Arrivals(self.workers, given.window, given.prior_p, given.prior_weight)
        rule = WaitForAll(arrivals, given.max_wait)
        return self._scheme(get_code("sync"), rule, on_plan)

    def _scheme(self, code: GradientCode, rule: ArrivalRule, on_plan: OnPlan) -> Scheme:
        maker = PlanMaker(
            code,
            self.quantizer,
            lambda: self.state.shape,
            self.gradients.sizes_K,
            self.config.quantizer.bits,
            np.array(self._bits_caps(), np.int64),
            rule,
            self.plan_ids,
            self.config.code.load_most if self._grows and not self._partial(code) else np.inf,
            self.config.straggler.p != "measured",
            self.config.straggler.noise_most,
            WorkLaws(self.workers) if self._partial(code) else None,
        )
        checked("code", lambda: maker.try_all(self._holds()))
        straggler = self.config.straggler
        known_p = straggler.p != "measured"
        return Scheme(code, rule, maker, straggler.replan_every, on_plan, straggler.noise_most, known_p)

    def _bits_caps(self) -> list[int]:
        """Most packed bits of each worker: the setting, or the widest packing (wider formats: the bits themselves)."""
        wanted, bits = self.config.quantizer.bits_most, self.config.quantizer.bits
        if isinstance(wanted, tuple):
            return list(wanted)
        return [max(bits, 8 if wanted is None else wanted)] * self.workers


def load_user_task(config: Config, base: Path) -> Task:
    """The task that the settings name; ConfigError."""
    options: dict[str, Any] = dict(config.task.options)
    try:
        return load_task(config.task.name, options, config.task.batch_size, base)
    except TaskError as error:
        raise ConfigError(f"task: {error}") from None
