"""Messages for names that are not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that ``name`` was probably meant to be; None if it is like none of them.

    >>> nearest("osg", ("sync", "osgc")), nearest("x", ("sync",))
    ('osgc', None)
    """
    return next(iter(difflib.get_close_matches(name, list(known), n=1)), None)


def unknown(what: str, name: str, allowed: Iterable[str]) -> ValueError:
    """One line that names what was found, the nearest allowed name, and all allowed names.

    >>> str(unknown("code", "osg", ("sync", "osgc")))
    "code 'osg' is not known: did you mean 'osgc'? allowed are sync, osgc"
    """
    allowed = tuple(allowed)
    near = nearest(name, allowed)
    hint = f" did you mean {near!r}?" if near else ""
    return ValueError(f"{what} {name!r} is not known:{hint} allowed are {', '.join(allowed)}")
