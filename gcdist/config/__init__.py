"""Settings of a run: sections, defaults, checks, and TOML in and out.

``examples/reference.toml`` shows every key with its default. A mistake raises `ConfigError`, one line for each mistake:
which file, which key, what was found, what is allowed.
"""

from gcdist.config.data import DataConfig
from gcdist.config.errors import ConfigError, checked, shown, suggest
from gcdist.config.faults import FaultConfig
from gcdist.config.files import absolute, dump_config, load_config, setting_lines, shared_settings, with_overrides
from gcdist.config.secret import secret_warnings
from gcdist.config.sections import (
    INJECT_KEYS,
    CheckpointConfig,
    ClusterConfig,
    CodeConfig,
    ComputeConfig,
    EvaluationConfig,
    InjectConfig,
    ObserveConfig,
    OptimizerConfig,
    QuantizerConfig,
    SimulateConfig,
    StragglerConfig,
    SummaryConfig,
    TaskConfig,
)
from gcdist.config.settings import Config, fewer_partitions, floor_warnings

__all__ = [
    "INJECT_KEYS",
    "CheckpointConfig",
    "ClusterConfig",
    "CodeConfig",
    "ComputeConfig",
    "Config",
    "ConfigError",
    "DataConfig",
    "EvaluationConfig",
    "FaultConfig",
    "InjectConfig",
    "ObserveConfig",
    "OptimizerConfig",
    "QuantizerConfig",
    "SimulateConfig",
    "StragglerConfig",
    "SummaryConfig",
    "TaskConfig",
    "absolute",
    "checked",
    "dump_config",
    "fewer_partitions",
    "floor_warnings",
    "load_config",
    "secret_warnings",
    "setting_lines",
    "shared_settings",
    "shown",
    "suggest",
    "with_overrides",
]
