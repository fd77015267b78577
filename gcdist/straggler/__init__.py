"""Delay models, arrival statistics and deadlines; time is an argument, never a clock."""
