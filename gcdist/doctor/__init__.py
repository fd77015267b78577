"""Obstacles to a run on these machines, before it begins: findings, each with the line that fixes it."""

from gcdist.doctor.finding import Finding, Level, verdict

__all__ = ["Finding", "Level", "verdict"]
