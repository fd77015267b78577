"""The only room that joins codes, noise laws and straggler statistics: Problem in, Plan out."""

from gcdist.planning.planner import check_plan, check_problem, make_plan
from gcdist.planning.report import PlanReport, WorkerReport, describe, noise_ratio, planned_noise, row_noise

__all__ = [
    "PlanReport",
    "WorkerReport",
    "check_plan",
    "check_problem",
    "describe",
    "make_plan",
    "noise_ratio",
    "planned_noise",
    "row_noise",
]
