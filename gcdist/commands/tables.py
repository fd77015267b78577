"""Tables that several commands print."""

from __future__ import annotations

from rich.table import Table

from gcdist.planning import PlanReport


def workers_table(report: PlanReport, title: str | None = None, first: int = 0) -> Table:
    """What each worker does in a plan; ``first`` is the number of the first worker (1: ranks)."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for heading in ("worker" if first == 0 else "rank", "p", "bits", "noise", "row sum", "partitions", "share"):
        table.add_column(heading, justify="right")
    for w in report["workers"]:
        table.add_row(
            str(w["worker"] + first),
            f"{w['p']:.4g}",
            str(w["bits"]),
            "inf" if w["noise"] is None else f"{w['noise']:.3g}",
            f"{w['row_sum']:.4g}",
            str(w["load"]),
            f"{w['share']:.1%}",
        )
    return table
