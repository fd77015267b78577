"""What a run leaves behind and shows while it goes: its folder, the terminal, the summary."""

from gcdist.observe.folder import RunFolder, plain, read_lines, read_metrics
from gcdist.observe.summary import (
    PartitionCount,
    Summary,
    WorkerArrivals,
    bytes_text,
    metric_text,
    print_summary,
    summary_table,
)
from gcdist.observe.terminal import Progress
from gcdist.observe.trace import Trace

__all__ = [
    "PartitionCount",
    "Progress",
    "RunFolder",
    "Summary",
    "Trace",
    "WorkerArrivals",
    "bytes_text",
    "metric_text",
    "plain",
    "print_summary",
    "read_lines",
    "read_metrics",
    "summary_table",
]
