"""The output of a run: its folder, the terminal, the summary, and other readers."""

from gcdist.observe.board import Board
from gcdist.observe.files import refuse_links
from gcdist.observe.folder import PLAN_VERSION, RunFolder, plain, read_lines, read_metrics
from gcdist.observe.script import ScriptProgress, say_to_stderr
from gcdist.observe.stream import EventStream, Observer, StepRecord
from gcdist.observe.summary import (
    PartitionCount,
    Summary,
    WorkerArrivals,
    bytes_text,
    metric_text,
    print_summary,
    summary_table,
)
from gcdist.observe.tail import FolderTail
from gcdist.observe.terminal import Progress
from gcdist.observe.times import TimesFile, WorkerRound, read_rounds
from gcdist.observe.trace import Trace

__all__ = [
    "PLAN_VERSION",
    "Board",
    "EventStream",
    "FolderTail",
    "Observer",
    "PartitionCount",
    "Progress",
    "RunFolder",
    "ScriptProgress",
    "StepRecord",
    "Summary",
    "TimesFile",
    "Trace",
    "WorkerArrivals",
    "WorkerRound",
    "bytes_text",
    "metric_text",
    "plain",
    "print_summary",
    "read_lines",
    "read_metrics",
    "read_rounds",
    "refuse_links",
    "say_to_stderr",
    "summary_table",
]
