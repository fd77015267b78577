"""The settings of the data: how it is cut, sampled and read."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field

from gcdist.config.section import Section


def _holds(value: Any) -> Any:
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or not value:
        raise ValueError("should be a list with one list of partitions for each worker")
    for rank, parts in enumerate(value, 1):
        if not isinstance(parts, (list, tuple)) or not parts or not all(type(j) is int and j >= 0 for j in parts):
            raise ValueError(f"of worker {rank} should be a list of one or more partitions, numbered from 0")
        twice = sorted({j for j in parts if list(parts).count(j) > 1})
        if twice:
            raise ValueError(f"of worker {rank} should name partition {twice[0]} once")
    return tuple(tuple(parts) for parts in value)


Holds: TypeAlias = Annotated[tuple[tuple[int, ...], ...] | None, BeforeValidator(_holds)]


class DataConfig(Section):
    """``prefetch``: batches that a process beside each worker reads ahead; 0: the worker reads them itself.

    ``compare``: samples that each process reads before the run begins, so that other data elsewhere are noticed; 0: none.
    ``holds``: the partitions that each worker can read, in the order of the ranks; absent: all of them.
    """

    sampling: Literal["independent", "epochs"] = "independent"
    prefetch: Annotated[int, Field(ge=0)] = 0
    compare: Annotated[int, Field(ge=0, le=64)] = 8
    partition_by: Annotated[str | None, Field(min_length=1)] = None
    holds: Holds = None

    def last_held(self) -> int:
        """The highest partition that somebody holds; -1: not said."""
        return -1 if self.holds is None else max(map(max, self.holds))
