"""gcdist: coded, quantized distributed training that does not wait for stragglers."""

from gcdist.api import connect, simulate
from gcdist.config import Config, ConfigError, load_config
from gcdist.runtime.cluster import Cluster, Step, StepInfo
from gcdist.runtime.driver import RunHaltedError, RunStoppedError
from gcdist.tasks import Task

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
    "simulate",
]
