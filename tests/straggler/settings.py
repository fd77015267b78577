"""Stop rules and arrival statistics with the defaults of the settings, which stand in the config alone."""

from __future__ import annotations

from typing import Any

from gcdist.config import StragglerConfig
from gcdist.straggler import ArrivalRule, Arrivals, make_stop_rule


def rule_of(workers: int, deadline: float | str = StragglerConfig().deadline, **changes: Any) -> ArrivalRule:
    """`make_stop_rule` with the settings' defaults but for ``changes``."""
    settings: dict[str, Any] = StragglerConfig().model_dump(exclude={"replan_every"})
    return make_stop_rule(workers, **{**settings, "deadline": deadline, **changes})


def arrivals_of(workers: int, window: int = StragglerConfig().window, **changes: Any) -> Arrivals:
    """`Arrivals` with the settings' defaults but for ``changes``."""
    settings = {name: getattr(StragglerConfig(), name) for name in ("prior_p", "prior_weight")}
    return Arrivals(workers, window, **{**settings, **changes})
