"""The figures of `gcdist plan --json`, and the comparison of schemes at the same problem."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypedDict

import numpy as np

from gcdist.coding.bits import BitAllocation, allocate_bits
from gcdist.coding.joint import Joint
from gcdist.coding.loads import depends_on_load
from gcdist.coding.loads_and_bits import plan_loads_and_bits
from gcdist.coding.registry import code_names, get_code
from gcdist.planning.load_cap import plan_within_load
from gcdist.planning.report import PlanReport, describe, finite
from gcdist.planning.schemes import known_error, scheme_error
from gcdist.types import GradientCode, Plan, Problem, Weighting

FIRST = "joint"  # first among equals: its plans are those of the default, "auto"
SEED = 0  # seed of the Monte Carlo estimates of codes without a formula


class WorkerFigures(TypedDict):
    """One worker; ``noise`` is None without bits."""

    worker: int  # 1..n
    p: float
    bits: int
    noise: float | None
    row_sum: float
    load: int


class PlanFigures(TypedDict):
    """What `gcdist plan --json` prints; None stands for infinite.

    ``F`` is that of inverse weights on this plan, ``F_upper`` is certified for every plan at these p, bits and caps; where p
    depends on the load and ``solver`` is "loads", for all whole loads and bits within the load cap.
    ``noise_ratio`` is the scheme's own E|ghat - g|^2/|g|^2 for partitions that agree: 1/F for inverse weights.
    """

    scheme: str
    solver: str
    n: int
    k: int
    F: float | None
    F_upper: float | None
    gap: float | None
    noise_ratio: float | None
    redundancy: float
    nonzeros: int
    bits_used: int
    notices: list[str]
    workers: list[WorkerFigures]


class SchemeFigures(TypedDict):
    """One line of the comparison; ``note`` says why a scheme has no figure, or what its figure leaves out.

    ``rank``: 0, unbiased, and no step waits for it; 1, a step waits
    until it can decode; 2, biased where partitions differ, or stale; 3, without a figure.
    """

    scheme: str
    rank: int
    noise_ratio: float | None
    standard_error: float  # 0: by formula
    mean: float | None  # E ghat along g for partitions that agree: below or above 1 is bias
    redundancy: float | None
    largest_load: int | None
    bits_used: int | None
    waits: bool
    note: str


@dataclass(frozen=True, slots=True, eq=False)
class Planned:
    """A plan with everything that is printed of it."""

    code: GradientCode
    plan: Plan
    report: PlanReport
    bits: BitAllocation
    figures: PlanFigures


def plan_figures(
    code: GradientCode, problem: Problem, solver: str = "auto", load_most: float = np.inf, noise_most: float = np.inf
) -> Planned:
    """Plan and figures; ``solver`` must be the code's own, so that the certificate is of the same solution.

    ``load_most`` and ``noise_most`` as in `plan_within_load`; a code that does not choose loads is not bound by the former.
    """
    found = plan_within_load(code, problem, 0, _bound(code, load_most), noise_most)
    plan, report = found.plan, describe(found.plan, problem, found.notices)
    bits = allocate_bits(plan.p_R, problem.noise, problem.bits_total, problem.bits_cap_N, solver)
    ratio = known_error(code, plan, problem, 0.0)
    if ratio is None and code.weighting is not Weighting.STALE:
        ratio = scheme_error(code, plan, problem, 0.0, _draws(code, problem), SEED).ratio
    F = report["F"] if report["F"] is not None else (np.inf if report["noise_ratio"] == 0 else 0.0)
    if np.isclose(F, bits.F, rtol=1e-12, atol=0.0):
        F = bits.F  # the same sum in another order
    upper = max(bits.F_upper, F)
    if _with_loads(code, problem):
        # at other loads p differs: what is certified is over whole loads and bits together
        bound = plan_loads_and_bits(replace(problem, load_cap_N=np.minimum(problem.load_cap_N, found.cap))).bound
        upper = max(F, problem.k**2 / bound) if bound > 0 else np.inf
    workers = [
        WorkerFigures(
            worker=w["worker"], p=w["p"], bits=w["bits"], noise=w["noise"], row_sum=w["row_sum"], load=w["load"]
        )
        for w in report["workers"]
    ]
    figures = PlanFigures(
        scheme=code.name,
        solver=_solver(code, problem, bits, found.cap),
        n=problem.n,
        k=problem.k,
        F=finite(F),
        F_upper=finite(upper),
        gap=0.0 if np.isinf(F) else finite(upper - F),
        noise_ratio=None if ratio is None else finite(ratio),
        redundancy=report["redundancy"],
        nonzeros=report["nonzeros"],
        bits_used=report["bits_used"],
        notices=list(found.notices.values()),
        workers=workers,
    )
    return Planned(code, plan, report, bits, figures)


def _with_loads(code: GradientCode, problem: Problem) -> bool:
    """Whether the plan has whole loads that were chosen together with the bits."""
    chain = isinstance(code, Joint) and code.chooses_loads and code.load_aware is not False
    return chain and problem.holds_NK is None and depends_on_load(problem)


def _bound(code: GradientCode, load_most: float) -> float:
    """The load cap that holds for this code."""
    return load_most if code.chooses_loads else np.inf


def _solver(code: GradientCode, problem: Problem, bits: BitAllocation, cap: float) -> str:
    """How the plan's bits were found: with the loads, by `allocate_bits`, in turn with row sums, or as an equal split."""
    if not isinstance(code, Joint):
        return "equal"
    if _with_loads(code, problem):
        return "loads"
    return "in turn" if cap < problem.k or problem.holds_NK is not None else bits.solver


def _draws(code: GradientCode, problem: Problem) -> int:
    """2000 steps up to 50 workers, fewer beyond; fewest where each is a dense solve and patterns matter least."""
    if code.waits:
        return min(2000, max(10, 5_000_000 // problem.n**2))
    return min(2000, max(100, 100_000 // problem.n))


def compare(
    problem: Problem, allocation: str, solver: str, zeta2: float, load_most: float = np.inf
) -> list[SchemeFigures]:
    """Every scheme with the same bits and about the load of `joint` on this allocation; by rank, then by noise.

    Noise alone would put codes first that make every step wait, or whose gradient is wrong where partitions differ: in a run
    the former cost time and the latter a better loss.
    """
    joint = get_code("joint", allocation=allocation, solver=solver)
    own = plan_within_load(joint, problem, 0, _bound(joint, load_most)).plan
    r = max(2, round(own.A_RK.nnz / problem.k))
    options: dict[str, dict[str, object]] = {
        "frc": {"s": r - 1},
        "cyclic": {"s": r - 1},
        "osgc": {"allocation": allocation},
        **{
            name: {"allocation": allocation, "solver": solver}
            for name in ("joint", "self-normalised", "shifted", "partial-memory")
        },
        **{name: {"r": r} for name in ("bgc", "sgc", "erasurehead", "expander", "adjacency")},
    }
    found = [_line(name, options.get(name, {}), problem, zeta2, load_most) for name in code_names() if name != "auto"]
    return sorted(found, key=lambda line: (line["rank"], line["noise_ratio"] or 0.0, line["scheme"] != FIRST))


def _line(name: str, options: dict[str, object], problem: Problem, zeta2: float, load_most: float) -> SchemeFigures:
    code = get_code(name, **options)
    line = SchemeFigures(
        scheme=name, rank=3, noise_ratio=None, standard_error=0.0, mean=None, redundancy=None, largest_load=None,
        bits_used=None, waits=code.waits, note="",
    )  # fmt: skip
    try:
        plan = plan_within_load(code, problem, 0, _bound(code, load_most)).plan
    except ValueError as error:
        line["note"] = str(error)
        return line
    report = describe(plan, problem)
    line["rank"] = 1 if code.waits else 0 if code.unbiased else 2
    line["redundancy"], line["largest_load"] = report["redundancy"], report["largest_load"]
    line["bits_used"] = report["bits_used"]
    if code.weighting is Weighting.STALE:
        line["rank"], line["note"] = 3, "stale: its error depends on how far gradients have moved"
        return line
    if code.shifted:
        line["note"] = "with h = 0: its noise falls with |y - h|^2 and has no floor"
    if code.waits:
        line["note"] = "waits until it can decode: stragglers cost time, not noise"
    ratio = known_error(code, plan, problem, zeta2)
    if ratio is not None:
        line["noise_ratio"], line["mean"] = finite(ratio), 1.0
        return line
    seen = scheme_error(code, plan, problem, zeta2, _draws(code, problem), SEED)
    line["noise_ratio"], line["mean"] = finite(seen.ratio), seen.mean
    line["standard_error"] = seen.error if seen.error > 1e-9 * seen.ratio else 0.0
    return line
