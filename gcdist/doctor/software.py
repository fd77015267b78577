"""Python, torch, gloo: whether they are installed, fit together, and are the same at the other end."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from gcdist.doctor.finding import Finding

PYTHON = ((3, 11), (3, 14))  # the oldest supported version, and the first unsupported one
TORCH = (2, 6)
NAMED = ("gcdist", "torch", "numpy", "numba")


def versions() -> dict[str, str]:
    """Versions of the relevant packages, by name; a missing package is absent."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in NAMED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def has_gloo() -> tuple[bool, bool]:
    """Whether this torch has gloo, and the options by which a pair needs no threads of its own."""
    import torch.distributed as dist  # takes two seconds, so only on request

    if not (dist.is_available() and dist.is_gloo_available()):
        return False, False
    group = getattr(dist, "ProcessGroupGloo", None)
    return True, hasattr(group, "_Options") and hasattr(group, "create_device")


def _numbers(text: str) -> tuple[int, ...]:
    """The first two numbers of a version.

    >>> _numbers("2.13.0+cpu"), _numbers("3.11.4")
    ((2, 13), (3, 11))
    """
    return tuple(int(word) if word.isdecimal() else 0 for word in text.split(".")[:2])


def judge_versions(found: Mapping[str, str], gloo: tuple[bool, bool]) -> list[Finding]:
    """Findings on this machine's versions (of `versions`) and `has_gloo`."""
    low, high = PYTHON
    here = ", ".join(f"{name} {number}" for name, number in found.items())
    if not low <= _numbers(found["python"]) < high:
        fix = f"use Python {low[0]}.{low[1]} to {high[0]}.{high[1] - 1}"
        return [Finding("versions", "fail", f"Python {found['python']} is not supported", fix)]
    if "torch" not in found or _numbers(found["torch"]) < TORCH:
        least = f"{TORCH[0]}.{TORCH[1]}"
        return [
            Finding("versions", "fail", f"torch {found.get('torch', 'is missing')}", f"pip install 'torch>={least}'")
        ]
    if not gloo[0]:
        return [
            Finding("versions", "fail", f"{here}; this torch has no gloo", "pip install a build of torch with gloo")
        ]
    if not gloo[1]:
        text = f"{here}; this torch does not share gloo's threads: three and five descriptors for each link"
        return [Finding("versions", "warn", text, "pip install -c constraints.txt torch")]
    return [Finding("versions", "ok", here)]


def judge_both(mine: Mapping[str, str], theirs: Mapping[str, str]) -> Finding:
    """The versions of both ends against each other: gcdist must be the same, the others should be."""
    differ = [f"{name} {mine.get(name, 'none')} here, {theirs.get(name, 'none')} there" for name in ("python", *NAMED)
              if mine.get(name) != theirs.get(name)]  # fmt: skip
    if mine.get("gcdist") != theirs.get("gcdist"):
        text = f"{differ_of('gcdist', mine, theirs)}: the master refuses this worker"
        return Finding("same versions", "fail", text, f"pip install gcdist=={theirs.get('gcdist', '?')}")
    if differ:
        return Finding("same versions", "warn", "; ".join(differ), "pip install -c constraints.txt gcdist on both")
    return Finding("same versions", "ok", "both ends have the same versions")


def differ_of(name: str, mine: Mapping[str, str], theirs: Mapping[str, str]) -> str:
    """One name at both ends.

    >>> differ_of("gcdist", {"gcdist": "0.1.0"}, {})
    'gcdist 0.1.0 here, none there'
    """
    return f"{name} {mine.get(name, 'none')} here, {theirs.get(name, 'none')} there"
