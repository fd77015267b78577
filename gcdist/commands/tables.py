"""Tables that several commands print."""

from __future__ import annotations

from rich.table import Table

from gcdist.planning import PlanReport

MANY = 40  # workers; of more, only the first and the last are shown


def workers_table(report: PlanReport, title: str | None = None) -> Table:
    """What each worker does in a plan; of more than `MANY` workers the first and the last."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for heading in ("worker", "p", "bits", "noise", "row sum", "partitions", "share", "done"):
        table.add_column(heading, justify="right")
    workers = report["workers"]
    left_out = range(MANY // 2, len(workers) - MANY // 2) if len(workers) > MANY else range(0)
    for i, w in enumerate(workers):
        if i in left_out:
            continue
        if left_out and i == left_out.stop:
            table.add_row("...", *[""] * 7)
        table.add_row(
            str(w["worker"]),
            f"{w['p']:.4g}",
            str(w["bits"]),
            "inf" if w["noise"] is None else f"{w['noise']:.3g}",
            f"{w['row_sum']:.4g}",
            str(w["load"]),
            f"{w['share']:.1%}",
            f"{w['done']:.0%}",
        )
    if left_out:
        table.caption = f"{len(left_out):,} of {len(workers):,} workers are not shown"
    return table
