"""The benchmark: schemes against delay scenarios, in wall-clock time, by real processes."""
