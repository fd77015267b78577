"""The local launcher: one master and n workers as children of one process. Standard library only: it starts at once."""

from __future__ import annotations

from gcdist.launcher.local import CommandError, launch_local

__all__ = ["CommandError", "launch_local"]
