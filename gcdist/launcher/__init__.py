"""The launchers: one master and n workers as children of one process. Standard library only: they start at once."""

from __future__ import annotations

from gcdist.launcher.hosts import Host, HostsError, read_hosts
from gcdist.launcher.local import launch_local
from gcdist.launcher.loop import CommandError
from gcdist.launcher.ssh import launch_ssh

__all__ = ["CommandError", "Host", "HostsError", "launch_local", "launch_ssh", "read_hosts"]
