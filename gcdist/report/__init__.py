"""A run's folder for people: the verdict in words, the report page, the table of runs, what-if."""

from gcdist.report.page import write_report
from gcdist.report.reading import Run, read_run
from gcdist.report.verdict import Verdict, judge

__all__ = ["Run", "Verdict", "judge", "read_run", "write_report"]
