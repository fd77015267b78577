"""`gcdist plan`: from late probabilities, a noise law and a bit budget to a code, and what it promises."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from gcdist.coding import code_names, code_options, get_code
from gcdist.commands.tables import workers_table
from gcdist.config import CodeConfig, ConfigError, StragglerConfig
from gcdist.names import unknown
from gcdist.observe import PLAN_VERSION
from gcdist.planning.decoding import best_decoding
from gcdist.planning.figures import Planned, SchemeFigures, compare, plan_figures
from gcdist.planning.law_choice import AutoFigures, foreseen, line_of
from gcdist.quantize import get_quantizer, noise_table
from gcdist.straggler import load_delays
from gcdist.types import F64, Problem

DELAYS_HELP = (
    "A delay model, a TOML file: workers = 4, and the keys of the section [inject] of a config, as in "
    'model = "shifted-exponential", shift = 0.1, mean = [0.1, 0.1, 0.3, 1.0], a line each; or model = "trace", file = '
    '"times.csv" (a column a worker, a row a step, decimal points, commas between). Needs --deadline.'
)
_POWER_BITS = 16  # default cap under a power law
_ADVISE = 500  # workers up to which decodings are compared (their formulas are quadratic)


def plan(
    p: Annotated[str | None, typer.Option(help="Late probability of each worker: 0.1,0.3,0.05")] = None,
    p_file: Annotated[Path | None, typer.Option(help="The same from a file, one number a line.")] = None,
    delays: Annotated[Path | None, typer.Option(help=DELAYS_HELP)] = None,
    deadline: Annotated[float | None, typer.Option(help="Seconds after which a message is late, for --delays.")] = None,
    partitions: Annotated[int | None, typer.Option(help="Data partitions K (default: one a worker).")] = None,
    bits_total: Annotated[float | None, typer.Option(help="Budget: sum over workers of bits a coordinate.")] = None,
    bits_max: Annotated[int | None, typer.Option(help="Most bits of one worker.")] = None,
    noise: Annotated[str | None, typer.Option(help='Noise law "power:D=17.9": D/(2^b - 1)^2, magnitude bits.')] = None,
    quantizer: Annotated[
        str | None, typer.Option(help="Noise law of this quantizer, packed bits; needs --dim.")
    ] = None,
    dim: Annotated[int | None, typer.Option(help="Coordinates of the gradient, for --quantizer.")] = None,
    scheme: Annotated[str, typer.Option(help="Code.")] = "joint",
    allocation: Annotated[str, typer.Option(help="chain, star, papers-chain, full or replicated:R.")] = "chain",
    solver: Annotated[str, typer.Option(help="auto, dp, waterfill or envelope.")] = "auto",
    load_most: Annotated[
        float,
        typer.Option(
            help='With the allocation "chain": most partitions of a worker, as a multiple of an even share; inf: any. '
            "By default that of a run."
        ),
    ] = CodeConfig().load_most,
    allow_negative: Annotated[bool, typer.Option("--allow-negative", help="Accept coefficients that amplify.")] = False,
    zeta2: Annotated[
        float, typer.Option(help="How partitions differ: mean |grad f_j - grad f|^2 over |grad f|^2.")
    ] = 0.0,
    compare_with: Annotated[str | None, typer.Option("--compare", help="all: every scheme at the same bits.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    out: Annotated[Path | None, typer.Option(help="Also write the plan with its coefficients to this file.")] = None,
) -> None:
    """Solve for code, data allocation and bits, and say what they promise.

    Example: gcdist plan --p 0.1,0.3,0.05,0.5 --partitions 8 --bits-total 16 --noise power:D=2
    """
    try:
        problem, which = _problem(p, p_file, delays, deadline, partitions, bits_total, bits_max, noise, quantizer, dim)
        if not load_most >= 1:
            raise ValueError(f"--load-most is {load_most}: it must be 1 or more")
        if not (np.isfinite(zeta2) and zeta2 >= 0):
            raise ValueError(f"--zeta2 is {zeta2}: it must be 0 or more")
        if compare_with is not None:
            if compare_with != "all":
                raise unknown("--compare", compare_with, ("all",))
            lines = compare(problem, allocation, solver, zeta2, load_most)
            print(json.dumps(lines, indent=2, allow_nan=False)) if as_json else _show_schemes(lines, which, zeta2)
            return
        planned = plan_figures(
            get_code(scheme, **_options(scheme, allocation, solver, allow_negative)),
            problem,
            solver,
            load_most,
            StragglerConfig().noise_most,
        )
        auto = None
        if delays is not None:
            auto = foreseen(load_delays(delays)[0], problem.n, problem.k, zeta2, StragglerConfig().noise_most)
        if out is not None:
            _write(out, planned)
    except ValueError as error:
        raise ConfigError(" ".join(str(error).split())) from None
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}") from None
    if as_json:
        figures = {**planned.figures} if auto is None else {**planned.figures, "auto": auto}
        print(json.dumps(figures, indent=2, allow_nan=False))
    else:
        _show_plan(planned, problem, which, zeta2, auto)


def _options(scheme: str, allocation: str, solver: str, allow_negative: bool) -> dict[str, object]:
    """Those of these options that this code takes."""
    if scheme not in code_names():
        raise unknown("--scheme", scheme, code_names())
    given: dict[str, object] = {"allocation": allocation, "solver": solver, "allow_negative": allow_negative}
    return {name: value for name, value in given.items() if name in code_options(scheme)}


def _problem(
    p: str | None, p_file: Path | None, delays: Path | None, deadline: float | None, partitions: int | None,
    bits_total: float | None, bits_max: int | None, noise: str | None, quantizer: str | None, dim: int | None,
) -> tuple[Problem, str]:  # fmt: skip
    """The Problem of the options, and one line that says how bits are counted; ValueError names the option."""
    if sum(x is not None for x in (p, p_file, delays)) != 1:
        raise ValueError("give exactly one of --p, --p-file and --delays")
    if delays is None:
        p_N = _numbers(p.split(","), "--p") if p is not None else _numbers(_lines(p_file), str(p_file))
        n = len(p_N)

        def late(worker: int, loads: F64) -> F64:
            return np.full(len(loads), p_N[worker])
    else:
        if deadline is None or not deadline > 0:
            raise ValueError(f"--delays needs --deadline above 0 seconds, not {deadline}")
        model, n = load_delays(delays)

        def late(worker: int, loads: F64) -> F64:
            return model.survival(worker, loads, deadline)

    k = n if partitions is None else partitions
    if k < 1:
        raise ValueError(f"--partitions is {k}: it must be 1 or more")
    if bits_total is None or not bits_total >= 0:
        given = "is missing" if bits_total is None else f"is {bits_total:g}"
        raise ValueError(f"--bits-total {given}: it must be 0 or more; 4 bits for each of the {n} workers is {4 * n}")
    if bits_max is not None and not 1 <= bits_max <= 32:
        raise ValueError(f"--bits-max is {bits_max}: it must be between 1 and 32")
    table, which = _noise(noise, quantizer, dim, bits_max)
    cap_N = np.full(n, len(table) - 1)
    return Problem(np.full(k, 1 / k), late, table, bits_total, cap_N, np.full(n, np.inf)), which


def _noise(noise: str | None, quantizer: str | None, dim: int | None, bits_max: int | None) -> tuple[F64, str]:
    if (noise is None) == (quantizer is None):
        raise ValueError("give exactly one of --noise and --quantizer")
    if noise is not None:
        law, _, text = noise.partition(":")
        name, _, value = text.partition("=")
        if law != "power" or name != "D":
            raise ValueError(f'--noise is {noise!r}: it must look like "power:D=17.9"')
        D = _numbers([value], "--noise", upper=np.inf)[0]
        levels = 2.0 ** np.arange(1, (bits_max or _POWER_BITS) + 1) - 1
        return np.append(
            np.inf, D / levels**2
        ), f"bits are magnitude bits of omega(b) = {D:g}/(2^b - 1)^2, sign not counted"
    assert quantizer is not None
    if dim is None or dim < 1:
        raise ValueError(f"--quantizer needs --dim of 1 or more, not {dim}")
    table = noise_table(get_quantizer(quantizer), dim, 32 if bits_max is None else bits_max)
    if not np.isfinite(table).any():
        raise ValueError(f"--bits-max {bits_max}: quantizer {quantizer} takes no width up to it")
    table = table[: int(np.flatnonzero(np.isfinite(table))[-1]) + 1]
    return table, f"bits are packed bits a coordinate, sign included, of quantizer {quantizer} at {dim} coordinates"


def _lines(path: Path | None) -> list[str]:
    assert path is not None
    try:
        text = path.read_text(encoding="utf-8-sig")  # with or without a byte order mark
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text; save it as UTF-8") from None
    return [line for line in text.splitlines() if line.strip()]


def _numbers(words: list[str], what: str, upper: float = 1.0) -> F64:
    """The numbers, each in [0, upper]; ValueError names the first that is not."""
    words = [word.strip() for word in words]
    if not words or words == [""]:
        raise ValueError(f"{what} is empty: it needs at least one number")
    values = []
    for at, word in enumerate(words, start=1):
        try:
            value = float(word)
        except ValueError:
            value = float("nan")
        if not 0 <= value <= upper or np.isinf(value):
            allowed = "a number from 0 to 1" if upper == 1 else "a number of 0 or more"
            raise ValueError(f"{what}: entry {at} is {word!r}: it must be {allowed}")
        values.append(value)
    return np.array(values)


def _write(path: Path, planned: Planned) -> None:
    plan = planned.plan
    rows = [
        {
            "worker": int(plan.worker_R[r]) + 1,
            "bits": int(plan.bits_RS[r, 0]),
            "p": float(plan.p_R[r]),
            "parts": plan.parts(r),
        }
        for r in range(plan.rows)
    ]
    written = {"version": PLAN_VERSION, **planned.figures, "rows": rows}
    path.write_text(json.dumps(written, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _show_plan(planned: Planned, problem: Problem, which: str, zeta2: float, auto: AutoFigures | None) -> None:
    figures, report = planned.figures, planned.report
    print(f"{figures['scheme']}: {which}")
    Console().print(workers_table(report))
    F, gap = figures["F"], figures["gap"]
    print(
        f"F {_number(F)} (at most {_number(figures['F_upper'])}, certified gap {_number(gap)}, bits by {figures['solver']})"
    )
    print(f"noise ratio {_number(figures['noise_ratio'], 'not defined')}: E|ghat - g|^2/|g|^2 where partitions agree")
    print(
        f"redundancy {figures['redundancy']:.3g}, {figures['nonzeros']} coefficients, largest load {report['largest_load']}"
    )
    print(f"least coefficient {_number(report['smallest_coefficient'])}, worst case over |g_j| <= C: ", end="")
    print(
        f"{_number(report['worst_ratio'])} C^2 k^2, lambda_max(M) F/k {_number(report['spectral_ratio'], 'not computed')}"
    )
    print(f"bits used {figures['bits_used']} of {problem.bits_total:g}")
    for line in figures["notices"]:
        print(f"note: {line}")
    if "decoding" in code_options(planned.code.name) and not planned.code.shifted and problem.n <= _ADVISE:
        choice = best_decoding(planned.plan, problem, zeta2)
        print(f"best decoding: {choice.best} ({choice.why})")
        print(f"step size: at most 1/(L + {2 / F:.3g} l)" if F else "step size: that of exact gradients")
    if auto is not None:
        print(line_of(auto))


def _show_schemes(lines: list[SchemeFigures], which: str, zeta2: float) -> None:
    table = Table("scheme", "noise ratio", "+-", "mean", "redundancy", "load", "bits")
    for column in table.columns[1:]:
        column.justify = "right"
    for line in lines:
        error = f"{line['standard_error']:.1g}" if line["standard_error"] else ""
        cells = (_cell(line["mean"]), _cell(line["redundancy"]), _cell(line["largest_load"]), _cell(line["bits_used"]))
        table.add_row(line["scheme"], _cell(line["noise_ratio"]), error, *cells)
    print(which)
    Console().print(table)
    print(
        f"noise ratio E|ghat - g|^2/|g|^2 at zeta^2/|g|^2 = {zeta2:g}; +-: standard error of a simulation, else by formula"
    )
    print("mean: E ghat along g, 1 where unbiased; load: partitions of the busiest worker")
    print(
        "order: first what is unbiased and makes no step wait, then what waits, then what is biased where partitions "
        "differ; by noise within each"
    )
    print(
        'the default, "auto", has the plans of joint and chooses deadline, loads and bits while it trains: joint has the '
        "least noise where partitions differ (try --zeta2 10), no step waits for it, and its rows may be cut, so that slow "
        "workers count"
    )
    for line in lines:
        if line["note"]:
            print(f"{line['scheme']}: {line['note']}")


def _cell(x: float | None) -> str:
    return "-" if x is None else f"{x:.4g}"


def _number(x: float | None, none: str = "infinite") -> str:
    return none if x is None else f"{x:.6g}"
