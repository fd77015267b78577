"""The benchmark: schemes under delay scenarios, in wall-clock time, by real processes."""
