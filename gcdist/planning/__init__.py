"""The only room that joins codes, noise laws and straggler statistics: Problem in, Plan out."""

from gcdist.planning.decoding import DecodingChoice, best_decoding
from gcdist.planning.figures import PlanFigures, SchemeFigures, compare, plan_figures
from gcdist.planning.load_cap import LoadedPlan, cap_for, load_cap, plan_within_load, straggler_noise
from gcdist.planning.planner import check_plan, check_problem, make_plan
from gcdist.planning.report import PlanReport, WorkerReport, describe, noise_ratio, planned_noise, row_noise
from gcdist.planning.schemes import SchemeError, known_error, scheme_error

__all__ = [
    "DecodingChoice",
    "LoadedPlan",
    "PlanFigures",
    "PlanReport",
    "SchemeError",
    "SchemeFigures",
    "WorkerReport",
    "best_decoding",
    "cap_for",
    "check_plan",
    "check_problem",
    "compare",
    "describe",
    "known_error",
    "load_cap",
    "make_plan",
    "noise_ratio",
    "plan_figures",
    "plan_within_load",
    "planned_noise",
    "row_noise",
    "scheme_error",
    "straggler_noise",
]
