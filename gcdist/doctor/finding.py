"""The results of a check."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

Level: TypeAlias = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One result: ``text`` states it; ``fix`` is the line that repairs it, for every level but ok."""

    check: str
    level: Level
    text: str
    fix: str = ""


def verdict(findings: Iterable[Finding]) -> Level:
    """The worst level.

    >>> verdict([Finding("memory", "ok", "8 GB"), Finding("clock", "warn", "off by 3 s", "chronyc makestep")])
    'warn'
    """
    levels = {finding.level for finding in findings}
    return "fail" if "fail" in levels else "warn" if "warn" in levels else "ok"
