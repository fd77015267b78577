"""Messages for names that are not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def unknown(what: str, name: str, allowed: Iterable[str]) -> ValueError:
    """One line that names what was found, the nearest allowed name, and all allowed names.

    >>> str(unknown("code", "osg", ("sync", "osgc")))
    "code 'osg' is not known: did you mean 'osgc'? allowed are sync, osgc"
    """
    allowed = tuple(allowed)
    near = difflib.get_close_matches(name, allowed, n=1)
    hint = f" did you mean {near[0]!r}?" if near else ""
    return ValueError(f"{what} {name!r} is not known:{hint} allowed are {', '.join(allowed)}")
