"""``report.html``: one file that needs no network. Words and tables are plain HTML; its script draws the pictures."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from gcdist.observe import plain
from gcdist.report.content import WORKER_HEADINGS, bits, figures, run_content, settings, worker_row
from gcdist.report.reading import Run
from gcdist.report.verdict import Verdict
from gcdist.report.whatif import WhatIf
from gcdist.whole_file import write_whole

PICTURES = (
    (
        "loss-step",
        "Loss against steps",
        "Mean over the partitions that arrived; a band spans the least and the largest.",
    ),
    ("loss-seconds", "Loss against wall clock", "The same against seconds since the run began."),
)  # drawn of all runs together
OF_A_RUN = (
    (
        "heat",
        "Who counted",
        "A row a worker, steps from left to right. Filled: its message counted; faint: it did not; a thin line: the plan "
        "only timed it; hatched: away.",
    ),
    (
        "parts",
        "Where each worker's time went",
        "Shares of the wall clock. Idle: done, and waiting for the next step.",
    ),
    (
        "arrival",
        "Arrival, promised and observed",
        "Share of the steps in which a worker's message counted, against the plans' promise.",
    ),
    (
        "noise",
        "Noise, planned and observed",
        "Error of the gradient over its square: planned for partitions that agree, and as estimated.",
    ),
    ("deadline", "Deadline and step time", "Seconds that a step may last, and lasted."),
    ("bytes", "Bytes both ways", "Sum so far, as the links counted them."),
    ("bits", "Bits of each worker", "Packed bits a coordinate in the last plan; 0: its work was only timed."),
)


def write_report(runs: Sequence[tuple[Run, Verdict, list[WhatIf]]], out: Path) -> None:
    """Write the page of these runs to ``out``; it appears whole or not at all.

    Raises:
        OSError: the page cannot be written.
    """
    text = page(runs)
    write_whole(out, text)


def page(runs: Sequence[tuple[Run, Verdict, list[WhatIf]]]) -> str:
    """The page's text."""
    assets = files("gcdist.report") / "assets"
    style, script = ((assets / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    names = [run.name for run, _, _ in runs]
    title = f"{', '.join(names[:3])}{' and more' if len(names) > 3 else ''}: gcdist report"
    content = [run_content(run, verdict, whatif) for run, verdict, whatif in runs]
    data = json.dumps(plain(content), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    many = len(runs) > 1
    parts = [
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{_text(title)}</title>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        "<link rel='icon' href='data:,'>",
        f"<style>{style}</style></head><body>",
        "<a class='skip' href='#verdict'>Skip to the verdict</a>",
        f"<header><p class='product'>gcdist report</p><h1>{_text(' · '.join(names))}</h1>{_navigation(many)}</header><main>",
        "<section id='verdict' tabindex='-1'><h2>Verdict</h2>",
        *(_verdict(run, verdict, many) for run, verdict, _ in runs),
        "</section>",
        _compared(runs),
        "<section id='loss'><h2>Loss</h2><div class='pair'>",
        *(_figure(f"all-{key}", heading, text) for key, heading, text in PICTURES),
        "</div></section>",
        *(_run(index, run, verdict, bool(whatif), many) for index, (run, verdict, whatif) in enumerate(runs)),
        f"</main><script type='application/json' id='data'>{data}</script><script>{script}</script></body></html>\n",
    ]
    return "\n".join(parts)


def _navigation(many: bool) -> str:
    places = [
        ("verdict", "Verdict"),
        ("figures", "Figures"),
        ("loss", "Loss"),
        ("run-0", "Runs" if many else "Workers"),
    ]
    places += [] if many else [("run-0-events", "Events"), ("run-0-settings", "Settings")]
    links = "".join(f"<a href='#{place}'>{name}</a>" for place, name in places)
    return f"<nav aria-label='Sections'>{links}</nav>"


def _verdict(run: Run, verdict: Verdict, many: bool) -> str:
    heading = f"<h3>{_text(run.name)}</h3>" if many else ""
    troubles = "".join(
        f"<li class='trouble {each.kind}'><span class='tag'>{each.kind}</span> {_text(each.text)}</li>"
        for each in verdict.troubles
    )
    notes = "".join(f"<li>{_text(note)}</li>" for note in verdict.notes)
    damaged = "".join(f"<li>{_text(problem)}</li>" for problem in run.problems)
    return (
        f"<div class='verdict'>{heading}<p class='headline'>{_text(verdict.headline)}</p>"
        + (f"<ul class='troubles'>{troubles}</ul>" if troubles else "")
        + (f"<ul class='notes'>{notes}</ul>" if notes else "")
        + (f"<div class='damaged'><p>Not everything could be read:</p><ul>{damaged}</ul></div>" if damaged else "")
        + "</div>"
    )


def _compared(runs: Sequence[tuple[Run, Verdict, list[WhatIf]]]) -> str:
    columns = [dict(figures(run)) for run, _, _ in runs]
    if len(runs) == 1:
        tiles = "".join(f"<div><dt>{_text(name)}</dt><dd>{_text(text)}</dd></div>" for name, text in columns[0].items())
        return f"<section id='figures'><h2>Figures</h2><dl class='tiles'>{tiles}</dl></section>"
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [[name, *(column.get(name, "-") for column in columns)] for name in names]
    out = _table(["", *(run.name for run, _, _ in runs)], rows, "figures", numbers=True)
    all_settings = [settings(run) for run, _, _ in runs]
    keys = sorted({key for each in all_settings for key in each})
    values = {key: [each[key][0] if key in each else "default" for each in all_settings] for key in keys}
    different = [[key, *told] for key, told in values.items() if len(set(told)) > 1]
    out += "<h3>Settings in which the runs differ</h3>"
    out += _table(["setting", *(run.name for run, _, _ in runs)], different) if different else "<p>None.</p>"
    return f"<section id='figures'><h2>Figures</h2>{out}</section>"


def _run(index: int, run: Run, verdict: Verdict, whatif: bool, many: bool) -> str:
    me = f"run-{index}"
    heading = f"Run {_text(run.name)}" if many else "Workers"
    kinds = {each.worker: each.kind for each in verdict.troubles}
    widths = bits(run)
    rows = [worker_row(each, kinds.get(each.worker, ""), widths[each.worker - 1]) for each in verdict.workers]
    pictures = [each for each in OF_A_RUN if each[0] != "parts" or run.split]
    changed = [[key, value, default] for key, (value, default) in settings(run).items()]
    body = [
        f"<section id='{me}' class='run'><h2>{heading}</h2>",
        *(_figure(f"{me}-{key}", name, text, key) for key, name, text in pictures[:2]),
        "<h3>The workers in figures</h3>",
        _table(list(WORKER_HEADINGS), rows, "workers", numbers=True),
        "<div class='pair'>",
        *(_figure(f"{me}-{key}", name, text, key) for key, name, text in pictures[2:]),
        "</div>",
    ]
    if whatif:
        body += [
            f"<h3 id='{me}-whatif'>What if</h3><p>The recorded times of every worker, replayed in the simulator with other "
            "settings. The first line replays the run as it was: how far it is off shows how far to trust the others. Noise "
            "is the planned error of the gradient where partitions agree; more of it needs smaller steps.</p>",
            _whatif(index),
        ]
    body += [
        f"<h3 id='{me}-events'>Events</h3><div class='scroll tall' tabindex='0' role='region' aria-label='Events'>",
        f"<table data-events='{index}'><thead><tr><th>after step</th><th>time</th><th>kind</th><th>what</th></tr></thead>"
        "<tbody></tbody></table></div>",
        f"<h3 id='{me}-settings'>Settings that differ from the defaults</h3>",
        _table(["setting", "value", "default"], changed) if changed else "<p>None.</p>",
        "</section>",
    ]
    return "".join(body)


def _whatif(index: int) -> str:
    return (
        f"<div class='scroll' tabindex='0' role='region' aria-label='What if'><table class='numbers' data-whatif='{index}'>"
        "<thead><tr><th>setting</th><th>wall clock</th><th>a step</th><th>against the run</th><th>counted</th><th>noise</th>"
        "<th>bytes up</th></tr></thead><tbody></tbody></table></div>"
    )


def _figure(name: str, heading: str, text: str, kind: str = "") -> str:
    return (
        f"<figure id='{name}' data-kind='{kind or name.removeprefix('all-')}'><figcaption><h3>{_text(heading)}</h3>"
        f"<p>{_text(text)}</p></figcaption><div class='plot'></div><p class='readout' aria-live='polite'></p></figure>"
    )


def _table(headings: list[str], rows: list[list[str]], kind: str = "", numbers: bool = False) -> str:
    head = "".join(f"<th scope='col'>{_text(heading)}</th>" for heading in headings)
    body = "".join(
        f"<tr><th scope='row'>{_text(row[0])}</th>{''.join(f'<td>{_text(cell)}</td>' for cell in row[1:])}</tr>"
        for row in rows
    )
    style = " ".join(name for name in (kind, "numbers" if numbers else "") if name)
    label = kind or headings[0]
    return (
        f"<div class='scroll' tabindex='0' role='region' aria-label='Table of {_text(label)}'><table class='{style}'>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _text(value: str) -> str:
    return html.escape(value, quote=True)
