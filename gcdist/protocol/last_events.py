"""The last events of a machine and its instructions: what led to a halt or to a bug."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from operator import attrgetter
from typing import Any

from gcdist.protocol.messages import Assignment, Peer

HELD = 300  # events
TEXT = 300  # characters of one text
_LEFT_OUT = frozenset({"body", "decoder", "plan", "hello", "terms"})  # large, or no news; no reference to them is kept
_NAMES: dict[type, tuple[str, ...]] = {}  # fields of each kind of event and instruction that are kept
_SMALL: set[type] = set()  # kinds of which all fields are
_VALUES: dict[type, Callable[[Any], tuple[Any, ...]]] = {}  # reads them


class LastEvents:
    """A ring of the last ``HELD`` events with the instructions that each gave.

    >>> from gcdist.protocol.messages import Tick, Wake
    >>> ring = LastEvents()
    >>> ring.add(Tick(1.5), [Wake(2.0)])
    >>> next(ring.lines())
    '{"event": "Tick", "at": 1.5, "instructions": [{"do": "Wake", "at": 2.0}]}'
    """

    def __init__(self, most: int = HELD) -> None:
        self._ring: deque[tuple[_Held, list[_Held]]] = deque(maxlen=most)

    def add(self, event: object, instructions: Sequence[object]) -> None:
        """Take one event in; bodies, plans and decoders are not held."""
        self._ring.append((_held(event), [_held(each) for each in instructions]))

    def lines(self) -> Iterator[str]:
        """The oldest first, each as one JSON object; workers are counted from 1, rows and partitions are array indices."""
        for event, instructions in self._ring:
            shown = _shown("event", _brief(event))
            yield json.dumps({**shown, "instructions": [_shown("do", _brief(each)) for each in instructions]})


_Brief = tuple[type, tuple[Any, ...]]
_Held = object  # an event or instruction with nothing to leave out, as nobody changes it; of another one its `_Brief`


def _held(value: object) -> _Held:
    kind = type(value)
    if kind in _SMALL:
        return value
    values = _VALUES.get(kind) or _learned(kind)
    return value if kind in _SMALL else (kind, values(value))


def _brief(held: _Held) -> _Brief:
    return held if isinstance(held, tuple) else (type(held), _VALUES[type(held)](held))


def _learned(kind: type) -> Callable[[Any], tuple[Any, ...]]:
    """How values of a kind are read."""
    assert is_dataclass(kind)
    every = tuple(each.name for each in fields(kind))
    names = _NAMES[kind] = tuple(name for name in every if name not in _LEFT_OUT)
    if names == every:
        _SMALL.add(kind)
    values = _VALUES[kind] = _reader(names)
    return values


def _reader(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    """The values of these fields as a tuple; `attrgetter` gives one only for two and more."""
    if len(names) < 2:
        return lambda value: tuple(getattr(value, name) for name in names)
    return attrgetter(*names)


def _shown(word: str, brief: _Brief) -> dict[str, Any]:
    kind, values = brief
    return {word: kind.__name__, **{name: _plain(value) for name, value in zip(_NAMES[kind], values, strict=True)}}


def _plain(value: object) -> Any:
    """A value as JSON has it, short."""
    if isinstance(value, Peer):
        return {"worker": value.rank, "life": value.inc}
    if isinstance(value, Assignment):
        return {"rows": list(value.rows), "partitions": sum(map(len, value.parts))}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if is_dataclass(value) and not isinstance(value, type):
        return _plain({each.name: getattr(value, each.name) for each in fields(value)})
    if isinstance(value, Mapping):
        # an index of a worker becomes its number, as in every text
        return {str(k): v + 1 if k == "worker" and isinstance(v, int) else _plain(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(each) for each in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (int, float)) or value is None else str(value)[:TEXT]
