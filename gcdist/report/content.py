"""The content of the report page as plain values: few digits, few points."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np

from gcdist.config import Config, ConfigError, setting_lines
from gcdist.observe import bytes_text
from gcdist.observe.summary import metric_text
from gcdist.report.figures import PARTS, WorkerFigures, asked
from gcdist.report.reading import Run
from gcdist.report.thin import CELLS, POINTS, bins, heat_row, highs, lows, means, short, shortened
from gcdist.report.verdict import Verdict, rate_text, seconds_text
from gcdist.report.whatif import WhatIf

EVENTS = 400  # most events on a page: the first 200 and the last 200
HIDDEN = ("name", "out")  # settings of a run's place, not of its content


def run_content(run: Run, verdict: Verdict, whatif: list[WhatIf]) -> dict[str, Any]:
    """One run, for the page's script."""
    cut = bins(run.steps, POINTS)
    series = run.series
    cells, asked_TN = bins(run.steps, CELLS), asked(run)
    noise = {name: shortened(means(series[f"noise_{name}"], cut)) for name in ("planned", "observed")}
    up, down = (np.nancumsum(series[name]) for name in ("bytes_up", "bytes_down"))
    last = [each.stop - 1 for each in cut]
    return {
        "name": run.name,
        "state": verdict.state,
        "workers": run.workers,
        "x": {"step": [int(run.step_T[at]) for at in last], "seconds": shortened(series["seconds"][last], 5)},
        "loss": {
            "mean": shortened(means(series["loss"], cut)),
            "low": shortened(lows(series["loss"], cut)) if len(cut) < run.steps else None,
            "high": shortened(highs(series["loss"], cut)) if len(cut) < run.steps else None,
        },
        "evaluations": evaluations(run),
        "noise": noise,
        "bytes": {"up": shortened(up[last], 5), "down": shortened(down[last], 5)},
        "deadline": {
            "deadline": shortened(means(np.where(series["deadline"] > 0, series["deadline"], np.nan), cut)),
            "step": shortened(means(series["step_seconds"], cut)),
        },
        "heat": {
            "edges": [int(run.step_T[each.start]) for each in cells] + ([int(run.step_T[-1]) + 1] if cells else []),
            "rows": [
                heat_row(run.arrived_TN[:, i], run.away_TN[:, i], asked_TN[:, i], cells) for i in range(run.workers)
            ],
        },
        "parts": parts(verdict),
        "arrival": [[short(each.planned, 3), short(each.rate, 3), short(each.sigmas, 2)] for each in verdict.workers],
        "bits": bits(run),
        "troubled": {each.worker: each.kind for each in verdict.troubles},
        "events": events(run),
        "whatif": [{"own": not each.changes, "setting": each.setting, "cells": each.cells()} for each in whatif],
    }


def parts(verdict: Verdict) -> dict[str, Any] | None:
    """Shares of each worker's time; None: not known."""
    if not any(each.parts for each in verdict.workers):
        return None
    rows = [[short(each.parts.get(name, 0.0), 3) for name in PARTS] for each in verdict.workers]
    return {"names": PARTS, "rows": rows}


def evaluations(run: Run) -> dict[str, list[list[float | int | None]]]:
    """By metric: (step, seconds, value) of each evaluation."""
    found: dict[str, list[list[float | int | None]]] = {}
    for line in run.evaluations[-POINTS:]:
        metrics = line.get("metrics")
        for name, value in metrics.items() if isinstance(metrics, dict) else ():
            if isinstance(value, (int, float)) and isinstance(line.get("step"), int):
                found.setdefault(name, []).append([line["step"], short(float(line.get("seconds") or 0)), short(value)])
    return found


def bits(run: Run) -> list[int | None]:
    """Packed bits a coordinate of each worker in the last plan (the mean over its segments)."""
    last = run.plans.get(int(run.plan_T[-1])) if run.steps else None
    found: list[int | None] = [None] * run.workers
    for row in last["rows"] if last else ():
        index, widths = row["index"], row.get("bits")
        if 0 <= index < run.workers and isinstance(widths, list) and widths:
            found[index] = round(float(np.mean(widths)))
    return found


def events(run: Run) -> list[list[str]]:
    """(step, time, kind, text) of the events; of more than `EVENTS`, the first and the last."""
    told = run.events
    if len(told) > EVENTS:
        left = len(told) - EVENTS
        told = [*told[: EVENTS // 2], {"kind": "", "text": f"{left} events are not shown"}, *told[-EVENTS // 2 :]]
    rows = []
    for event in told:
        at, step = event.get("time"), event.get("step")
        clock = time.strftime("%H:%M:%S", time.localtime(at)) if isinstance(at, (int, float)) else ""
        text = str(event.get("text", ""))
        rows.append(["" if step is None else str(step), clock, str(event.get("kind", "")), text[:400]])
    return rows


def settings(run: Run) -> dict[str, tuple[str, str]]:
    """Settings that differ from the defaults: (value, default) as JSON, by dotted key."""
    try:
        mine = setting_lines(Config(**run.config))
    except (ConfigError, TypeError, ValueError):
        # of another version, or damaged: only the readable settings are compared
        mine = dict(_flat(run.config))
    default = setting_lines(Config())
    changed = {
        key: (value, default.get(key, "no such setting"))
        for key, value in mine.items()
        if key not in HIDDEN and value != default.get(key)
    }
    return {key: both for key, both in sorted(changed.items()) if both != ("null", "no such setting")}


def _flat(values: dict[str, Any], before: str = "") -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, dict) and value:
            lines += _flat(value, f"{before}{key}.")
        else:
            lines.append((f"{before}{key}", json.dumps(value, default=str)))
    return lines


def figures(run: Run) -> list[tuple[str, str]]:
    """The figures for a comparison of runs: (name, text)."""
    series = run.series
    seconds = float(np.nan_to_num(series["seconds"][-1])) if run.steps else 0.0
    loss = series["loss"][np.isfinite(series["loss"])]
    up, down = (float(np.nansum(series[name])) for name in ("bytes_up", "bytes_down"))
    live = np.nansum(series["live"])
    rows = [
        ("scheme", str(run.summary.get("scheme") or run.setting("code.scheme", "unknown"))),
        ("bits", str(run.setting("quantizer.bits", "unknown"))),
        ("workers", str(run.workers)),
        ("steps", str(run.steps)),
        ("loss, first step", f"{loss[0]:.4g}" if len(loss) else "-"),
        ("loss, last tenth of the steps", f"{loss[-max(1, len(loss) // 10) :].mean():.4g}" if len(loss) else "-"),
    ]
    last = run.evaluations[-1].get("metrics") if run.evaluations else None
    for name, value in last.items() if isinstance(last, dict) else ():
        if isinstance(value, (int, float)):
            rows.append((name.replace("_", " "), metric_text(name, value).removeprefix(name.replace("_", " ")).strip()))
    rows += [
        ("wall clock", seconds_text(seconds)),
        ("seconds a step", seconds_text(seconds / run.steps) if run.steps else "-"),
        ("messages counted", f"{run.arrived_TN.sum() / live:.0%}" if live > 0 else "-"),
        ("bytes up", bytes_text(up)),
        ("bytes down", bytes_text(down)),
        ("noise planned, median", _median(series["noise_planned"])),
        ("noise observed, median", _median(series["noise_observed"])),
    ]
    return rows


def _median(values: Any) -> str:
    known = values[np.isfinite(values)]
    return f"{np.median(known):.3g}" if len(known) else "-"


def worker_row(each: WorkerFigures, kind: str, width: int | None) -> list[str]:
    """One line of the table of workers; the headings are `WORKER_HEADINGS`."""

    def cell(seconds: float) -> str:
        return seconds_text(seconds) if np.isfinite(seconds) else "-"

    return [
        str(each.worker),
        kind or "well",
        f"{each.rate:.0%}" if each.asked else "-",
        f"{each.planned:.0%}" if np.isfinite(each.planned) else "-",
        f"{'> ' if each.least else ''}{cell(each.seconds)}",
        cell(each.held),
        cell(each.link),
        rate_text(each.bits_a_second) if np.isfinite(each.bits_a_second) else "-",
        f"{each.load:.3g}" if np.isfinite(each.load) else "-",
        "-" if width is None else str(width),
        f"{each.away:.0%}",
        cell(each.cost),
    ]


WORKER_HEADINGS = (
    "worker", "is", "counted", "promised", "a round takes", "at the worker", "on the link", "link speed", "partitions",
    "bits", "away", "waited for",
)  # fmt: skip
