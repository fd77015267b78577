"""gcdist below the trainers that people already use: their loop runs at the master, workers serve.

One module for each, with an extra of the same name; none is imported before it is asked for: `gcdist.integrations.hf`
(transformers.Trainer), `gcdist.integrations.lightning`, `gcdist.integrations.accelerate`.
"""

from gcdist.integrations.alone import connect

__all__ = ["connect"]
