"""gcdist: coded, quantized distributed training that does not wait for stragglers."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from gcdist.api import connect, simulate
    from gcdist.config import Config, ConfigError, load_config
    from gcdist.run.cluster import Cluster, Step, StepInfo
    from gcdist.tasks import Task, partition_by
    from gcdist.types import RunHaltedError, RunStoppedError

# imported when first used: planning and the mathematics need no torch, which takes two seconds to import
_HOMES = {
    "Cluster": "gcdist.run.cluster",
    "Config": "gcdist.config",
    "ConfigError": "gcdist.config",
    "RunHaltedError": "gcdist.types",
    "RunStoppedError": "gcdist.types",
    "Step": "gcdist.run.cluster",
    "StepInfo": "gcdist.run.cluster",
    "Task": "gcdist.tasks",
    "connect": "gcdist.api",
    "load_config": "gcdist.config",
    "partition_by": "gcdist.tasks",
    "simulate": "gcdist.api",
}

__all__ = [
    "Cluster",
    "Config",
    "ConfigError",
    "RunHaltedError",
    "RunStoppedError",
    "Step",
    "StepInfo",
    "Task",
    "connect",
    "load_config",
    "partition_by",
    "simulate",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("gcdist")
    if name not in _HOMES:
        raise AttributeError(f"module 'gcdist' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
