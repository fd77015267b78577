"""What a run leaves behind and shows while it goes: its folder, the terminal, the summary."""

from gcdist.observe.folder import RunFolder, read_lines, read_metrics

__all__ = ["RunFolder", "read_lines", "read_metrics"]
