"""All settings of a run, and what holds between its sections."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from gcdist.config.data import DataConfig
from gcdist.config.errors import ConfigError, explain, shown
from gcdist.config.faults import FaultConfig
from gcdist.config.section import MOST_NAME, Count, FilePath, Section
from gcdist.config.sections import (
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


class Config(Section):
    """All settings of a run; sections may be given as dictionaries.

    Raises ConfigError, one line for each mistake.

    >>> Config(code={"partitionz": 3})
    Traceback (most recent call last):
    gcdist.config.errors.ConfigError: code.partitionz: unknown key; did you mean "partitions"? allowed: scheme, allocation, \
partitions, load_most, partial, unbiased, options
    """

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    steps: Count = 100
    epochs: Count | None = None
    out: FilePath = Path("runs")
    name: str | None = None
    task: TaskConfig = TaskConfig()
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    code: CodeConfig = CodeConfig()
    quantizer: QuantizerConfig = QuantizerConfig()
    straggler: StragglerConfig = StragglerConfig()
    inject: InjectConfig = InjectConfig()
    faults: Annotated[tuple[FaultConfig, ...], Field(strict=False)] = ()
    cluster: ClusterConfig = ClusterConfig()
    compute: ComputeConfig = ComputeConfig()
    simulate: SimulateConfig = SimulateConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    summary: SummaryConfig = SummaryConfig()
    observe: ObserveConfig = ObserveConfig()

    def __init__(self, settings: Mapping[str, Any] | None = None, /, **values: Any) -> None:
        if settings is not None and not isinstance(settings, Mapping):
            raise ConfigError(f"Config: found {settings!r}; should be a dict of settings, or keyword arguments")
        try:
            super().__init__(**{**(settings or {}), **values})
        except ValidationError as error:
            raise explain(error, Config) from None

    @model_validator(mode="after")
    def _check(self) -> Config:
        wrong = []
        if self.straggler.p == "model" and self.inject.model == "none":
            wrong.append('straggler.p: found "model"; it needs a delay model in inject.model')
        if self.name is not None and (not self.name or {"/", "\0"} & set(self.name) or self.name in (".", "..")):
            wrong.append(f"name: found {shown(self.name)}; should be the name of one folder")
        elif len((self.name or "").encode(errors="replace")) > MOST_NAME:
            wrong.append(f"name: found {len(self.name or '')} characters; file systems take up to {MOST_NAME} bytes")
        if self.epochs is not None and "steps" in self.model_fields_set:
            wrong.append(f"epochs: found {self.epochs}; steps = {self.steps} is given, and only one of them can be")
        last, k = self.data.last_held(), self.code.partitions
        if k is not None and last >= k:
            wrong.append(f"data.holds: found partition {last}; code.partitions is {k}: should be 0 to {k - 1}")
        workers = self.cluster.workers
        if workers is not None:
            lists = {f"inject.{key}": length for key, length in self.inject.lists().items()}
            if isinstance(self.straggler.p, tuple):
                lists["straggler.p"] = len(self.straggler.p)
            if isinstance(self.quantizer.bits_most, tuple):
                lists["quantizer.bits_most"] = len(self.quantizer.bits_most)
            if self.data.holds is not None:
                lists["data.holds"] = len(self.data.holds)
            wrong += [
                f"{key}: found a list of {length}; cluster.workers is {workers}"
                for key, length in lists.items()
                if length != workers
            ]
            wrong += [
                f"faults[{i}].worker: found {fault.worker}; cluster.workers is {workers}"
                for i, fault in enumerate(self.faults)
                if fault.worker is not None and fault.worker > workers
            ]
        if wrong:
            raise ValueError("\n".join(wrong))
        return self

    def resolved(self, workers: int, samples: int | None = None) -> Config:
        """The same settings with what depends on the number of workers filled in.

        Where they are absent, ``code.partitions`` becomes 2 x workers (at most ``samples``, if given),
        ``cluster.min_workers`` half of them (rounded up), ``cluster.threads`` 1.

        Raises:
            ConfigError: the settings name another number of workers, or more partitions than there are samples.
        """
        if self.cluster.workers not in (None, workers):
            raise ConfigError(f"cluster.workers: found {self.cluster.workers}; {workers} were started (and the master)")
        cluster = {
            "workers": workers,
            "min_workers": self.cluster.min_workers or (workers + 1) // 2,
            "threads": self.cluster.threads or 1,
        }
        sections = self._given()
        sections["cluster"] = {**self.cluster.model_dump(), **cluster}
        k = self.code.partitions
        if k is not None and samples is not None and k > samples:
            raise ConfigError(
                f"code.partitions: found {k}; the data set has {samples} samples: should be 1 to {samples}"
            )
        fewest = 2 * workers if samples is None else min(2 * workers, samples)
        sections["code"] = self.code.model_copy(update={"partitions": k or fewest})
        return Config(**sections)

    def with_steps(self, steps_per_epoch: int) -> Config:
        """The same settings with ``epochs``, if given, in ``steps``."""
        if self.epochs is None:
            return self
        return Config(**{**self._given(), "epochs": None, "steps": self.epochs * steps_per_epoch})

    def _given(self) -> dict[str, Any]:
        """All values, but the default of ``steps`` where ``epochs`` takes its place."""
        values = {key: getattr(self, key) for key in type(self).model_fields}
        if self.epochs is not None:
            del values["steps"]
        return values


def fewer_partitions(config: Config, workers: int, samples: int) -> str:
    """A line if the default of ``code.partitions`` is less than twice the workers; else empty.

    >>> fewer_partitions(Config(), 3, 5)
    'code.partitions: 5, one for each sample of the data set; the default is 6, twice the workers'
    """
    if config.code.partitions is not None or samples >= 2 * workers:
        return ""
    usual = 2 * workers
    return f"code.partitions: {samples}, one for each sample of the data set; the default is {usual}, twice the workers"


def floor_warnings(config: Config, workers: int, cores: int) -> list[str]:
    """Lines to warn with when ``workers`` and the master on ``cores`` of one machine cannot keep the injected delays.

    An injected delay is a floor: computing that takes longer than it, as it does when many processes share few cores,
    makes the real p another than the injected one.
    """
    key = "scale" if config.inject.model == "pareto" else "shift"
    if config.inject.model in ("none", "trace") or workers + 1 <= cores:
        return []
    value = getattr(config.inject, key)
    least = min(value) if isinstance(value, tuple) else value
    if least >= 0.2:
        return []
    return [
        f"inject.{key}: the least floor is {least:g} s, with {workers + 1} processes on {cores} cores; below 0.2 s the "
        "computing may take longer than the floor, and the real p is then not the injected one"
    ]
