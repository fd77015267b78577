"""The sections of the settings: keys, defaults and checks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from gcdist.config.errors import shown
from gcdist.config.kinds import BitsMost, Deadline, Misses, PerWorker
from gcdist.config.secret import shared_secret
from gcdist.config.section import MOST_SECONDS, Count, FilePath, NotNegative, Positive, Seconds, Section


class TaskConfig(Section):
    """What is trained."""

    name: str = "digits"
    batch_size: Count = 16
    options: dict[str, Any] = Field(default_factory=dict)


class OptimizerConfig(Section):
    """The optimizer of `gcdist train`; Python users bring their own."""

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: Positive = 0.1
    momentum: NotNegative = 0.0
    weight_decay: NotNegative = 0.0

    @model_validator(mode="after")
    def _check(self) -> OptimizerConfig:
        if self.momentum and self.name != "sgd":
            raise ValueError(f'momentum: found {self.momentum}; the optimizer "{self.name}" does not use it')
        return self


class CodeConfig(Section):
    """The gradient code: who computes what. ``partitions`` absent: twice the workers, or one a sample if there are fewer.

    ``load_most``: with the allocation "chain", no worker computes more than this multiple of its even share; an automatic
    deadline leaves room for it. Each worker but the last shares a partition with the next: where computing is what takes
    long, 4 to 8 partitions a worker make that cheap.

    ``partial``: at its deadline a worker sends what it has done of its row, and that counts. Absent: as the scheme does
    (`auto`, `joint`, `osgc` and `self-normalised` do; `shifted` and `memory` on request; false: the papers' form).

    ``unbiased``: refuse a scheme whose estimate is not right on average. Everything that "auto" chooses among is.
    """

    scheme: str = "auto"
    allocation: str = "chain"
    partitions: Count | None = None
    load_most: Annotated[float, Field(ge=1)] = 1.25
    partial: bool | None = None
    unbiased: bool = False
    options: dict[str, Any] = Field(default_factory=dict)


WIDE = {"float32": 32, "bfloat16": 16}  # bits of the quantizers with one width; the others pack 1 to 8


class QuantizerConfig(Section):
    """Packed bits a coordinate, sign included: ``bits`` on average over the workers, ``bits_most`` for any of them.

    ``downlink``: how the parameters travel to the workers. "differences": what has changed, quantized with ``downlink_bits``
    once a step (math section 11); "float32": as they are; "bfloat16": rounded to nearest. Absent: "differences", but
    "float32" with the quantizers "float32" (nothing is lost then) and "qsgd" (its noise grows with the model).
    """

    name: str = "rotated-dither"
    bits: int = 4
    bits_most: BitsMost = None
    downlink: Literal["differences", "float32", "bfloat16"] = "differences"
    downlink_bits: int = 4
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _one_width(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        name = data.get("name")
        if not isinstance(name, str):
            return data
        width = {"bits": WIDE[name], "downlink_bits": WIDE[name]} if name in WIDE else {}
        return {**width, **({"downlink": "float32"} if name in ("float32", "qsgd") else {}), **data}

    @model_validator(mode="after")
    def _check(self) -> QuantizerConfig:
        wide = WIDE.get(self.name)
        if wide is not None and self.bits != wide:
            raise ValueError(f'bits: found {self.bits}; the quantizer "{self.name}" has {wide}')
        if wide is None and not 1 <= self.bits <= 8:
            raise ValueError(f'bits: found {self.bits}; the quantizer "{self.name}" takes 1 to 8')
        down = self.downlink_bits
        if self.downlink == "differences" and (down != wide if wide is not None else not 1 <= down <= 8):
            allowed = "takes 1 to 8" if wide is None else f"has {wide}"
            raise ValueError(f'downlink_bits: found {down}; the quantizer "{self.name}" {allowed}')
        if wide is not None and self.bits_most is not None:
            raise ValueError(f'bits_most: found {shown(self.bits_most)}; the quantizer "{self.name}" has {wide} bits')
        most = self.bits_most if isinstance(self.bits_most, tuple) else (self.bits_most,)
        highest = max((each for each in most if each is not None), default=None)
        if highest is not None and highest < self.bits:
            raise ValueError(
                f"bits_most: found {shown(self.bits_most)}; bits = {self.bits} is the average over the workers: "
                f"should be at least {self.bits} (or give fewer bits)"
            )
        return self


class StragglerConfig(Section):
    """The deadline of a step and the probability of missing it."""

    deadline: Deadline = "auto"
    noise_most: Positive = 0.2
    max_wait: Seconds = 60.0
    warmup_steps: Annotated[int, Field(ge=0)] = 5
    p: Misses = "measured"
    prior_p: Annotated[float, Field(gt=0, lt=1)] = 0.1
    prior_weight: Positive = 2.0
    window: Annotated[int, Field(ge=1, le=100_000)] = 200
    replan_every: Count = 20

    @model_validator(mode="after")
    def _check(self) -> StragglerConfig:
        if not isinstance(self.deadline, str) and self.deadline > self.max_wait:
            raise ValueError(f"deadline: found {self.deadline}; should be at most max_wait = {self.max_wait}")
        if isinstance(self.p, tuple) and isinstance(self.deadline, str):
            raise ValueError(f'p: found a list; it holds for one deadline: give seconds in place of "{self.deadline}"')
        return self


# keys of the inject section that each model reads
INJECT_KEYS: dict[str, tuple[str, ...]] = {
    "none": (),
    "shifted-exponential": ("shift", "mean", "scale_with_load"),
    "pareto": ("scale", "shape", "scale_with_load"),
    "gilbert-elliott": ("shift", "mean", "slowdown", "slow_share", "slow_spell", "scale_with_load"),
    "trace": ("file", "unit", "scale_with_load"),
}
WHERE = "where"  # a delay is spent; every model but "none" has it


class InjectConfig(Section):
    """Delays put into the workers for an experiment.

    ``where`` they are spent. "message": a floor on the time from a round to its message; the worker computes at its own
    speed and, when the step is over, is free at once. "compute": each of the l partitions takes an l-th of the delay at
    least; one that has begun is not cut short, and the worker is not free before its end, as one that is really slow.

    ``options`` are those of a model of one's own (`straggler.register_delays`).
    """

    model: str = "none"
    shift: PerWorker = 0.0
    mean: PerWorker = 0.0
    scale: PerWorker = 0.0
    shape: PerWorker = 0.0
    slowdown: Annotated[float, Field(ge=1)] = 1.0
    slow_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    slow_spell: Annotated[float, Field(ge=1)] = 1.0
    file: FilePath | None = None
    unit: Positive = 1.0
    scale_with_load: bool = False
    where: Literal["message", "compute"] = "message"
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> InjectConfig:
        used = ("model", *INJECT_KEYS.get(self.model, ("options",)), *((WHERE,) if self.model != "none" else ()))
        wrong = [
            f'{key}: found {shown(getattr(self, key))}; the model "{self.model}" does not use it'
            for key, field in type(self).model_fields.items()
            if key not in used and getattr(self, key) != field.get_default(call_default_factory=True)
        ]
        if self.model == "trace" and self.file is None:
            wrong.append('file: missing; the model "trace" needs a CSV file')
        if self.model == "pareto":
            for key in ("scale", "shape"):
                value = getattr(self, key)
                if min(value if isinstance(value, tuple) else (value,)) <= 0:
                    wrong.append(f'{key}: found {shown(value)}; the model "pareto" needs numbers above 0')
        if wrong:
            raise ValueError("\n".join(wrong))
        return self

    def params(self) -> dict[str, Any]:
        """The keys that the model reads, as keyword arguments of `straggler.make_delays`."""
        return {key: getattr(self, key) for key in INJECT_KEYS.get(self.model, ())} | self.options

    @property
    def computing(self) -> bool:
        """Whether delays are spent inside the partitions."""
        return self.where == "compute"

    def lists(self) -> dict[str, int]:
        """Lengths of the per-worker lists, by key."""
        values = {key: getattr(self, key) for key in ("shift", "mean", "scale", "shape")}
        return {key: len(value) for key, value in values.items() if isinstance(value, tuple)}


class ClusterConfig(Section):
    """Who takes part, how links travel, and when somebody counts as silent or lost. Times in seconds.

    ``transport``: "gloo" for private networks, "tls" for any: encrypted, both ends proved by the shared secret, or by
    ``certificate``, ``key`` and ``authority`` (PEM files), on the one ``port`` of the master (absent: MASTER_PORT; under
    torchrun, whose own store is there, the next one).
    """

    workers: Count | None = None
    min_workers: Count | None = None
    start_timeout: Seconds = 30.0
    join_timeout: Seconds = 120.0
    rejoin_timeout: Seconds = 3600.0
    beat: Seconds = 1.0
    silent_after: Seconds = 5.0
    lost_after: Seconds = 10.0
    piece_timeout: Seconds = 10.0
    interface: str | None = None
    secret_file: FilePath | None = None
    transport: Literal["gloo", "tls"] = "gloo"
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    certificate: FilePath | None = None
    key: FilePath | None = None
    authority: FilePath | None = None
    master_name: Annotated[str, Field(min_length=1, max_length=253)] = "gcdist-master"
    retry_first: Seconds = 0.5
    retry_most: Seconds = 30.0
    threads: Annotated[int, Field(ge=1, le=4096)] | None = None

    @model_validator(mode="after")
    def _check(self) -> ClusterConfig:
        wrong = []
        if self.workers is not None and self.min_workers is not None and self.min_workers > self.workers:
            wrong.append(f"min_workers: found {self.min_workers}; should be at most workers = {self.workers}")
        for low, high in (("beat", "silent_after"), ("silent_after", "lost_after")):
            if getattr(self, low) >= getattr(self, high):
                wrong.append(f"{high}: found {getattr(self, high)}; should be above {low} = {getattr(self, low)}")
        if self.retry_first > self.retry_most:
            wrong.append(f"retry_most: found {self.retry_most}; should be at least retry_first = {self.retry_first}")
        files = {name: getattr(self, name) for name in ("certificate", "key", "authority")}
        given = [name for name, path in files.items() if path is not None]
        if given and self.transport != "tls":
            wrong.append(
                f'{given[0]}: found {shown(files[given[0]])}; the transport "{self.transport}" does not use it'
            )
        elif given:
            wrong += [f"{name}: missing; {given[0]} is given" for name, path in files.items() if path is None]
        if self.port is not None and self.transport != "tls":
            wrong.append(f'port: found {self.port}; the transport "{self.transport}" does not use it (set MASTER_PORT)')
        if wrong:
            raise ValueError("\n".join(wrong))
        return self

    def shared_secret(self) -> str | None:
        """The secret that peers must prove: what ``secret_file`` holds, else the environment's GCDIST_SECRET.

        White space around it does not count. ConfigError if it cannot be read, is blank, or has less than 16 characters.
        """
        return shared_secret(self.secret_file)


class ComputeConfig(Section):
    """Where a worker computes; workers may differ. "auto": on the GPU where there is one."""

    device: Literal["cpu", "cuda", "auto"] = "cpu"


class SimulateConfig(Section):
    """The virtual machines of `gcdist simulate`: seconds, and bytes per second of each link.

    ``compute_seconds`` are of a partition, ``encode_seconds`` of a message before its delay, ``send_seconds`` of both ends
    for a message that leaves, ``master_seconds`` of the master between two rounds. ``cores``: those that all workers share,
    who then take longer when many work; 0: each has a core of its own. ``master_bandwidth``: bytes a second of the
    master's own port, each way, shared by all links; 0: no limit. ``link_seconds``: of the processes at both ends for a
    round or a message with a gradient, which pass the master one after another. ``choice_seconds``: of the master for each
    choice of `auto` or of an automatic deadline. ``master_message_seconds`` and ``master_byte_seconds``: of
    the master's processor for a message with a gradient, and for each of its bytes, one after another. ``pack_messages``:
    messages are packed and unpacked as on a real link, each gradient is computed alone, and a worker's round happens event
    by event; the run is slower, and the same to the last bit.
    """

    latency: NotNegative = 0.0005
    bandwidth: Positive = 1e9
    compute_seconds: NotNegative = 0.005
    encode_seconds: NotNegative = 0.0
    send_seconds: NotNegative = 0.0
    master_seconds: NotNegative = 0.0
    link_seconds: NotNegative = 0.0
    choice_seconds: NotNegative = 0.0
    cores: Annotated[int, Field(ge=0)] = 0
    master_bandwidth: NotNegative = 0.0
    master_message_seconds: NotNegative = 0.0
    master_byte_seconds: NotNegative = 0.0
    pack_messages: bool = False


class CheckpointConfig(Section):
    """When the run's state is written, and how many of them are kept; ``keep`` 0: none is ever written.

    ``every``: steps between two. 0: so many ``minutes`` between two, more where writing one takes over 1% of the run's time;
    a simulated run has none by the clock. One is written at every end of a run, too.
    """

    every: Annotated[int, Field(ge=0)] = 0
    minutes: Annotated[float, Field(ge=0, le=MOST_SECONDS / 60)] = 5.0
    keep: Annotated[int, Field(ge=0)] = 3


class EvaluationConfig(Section):
    """When the task's own evaluation runs on the master."""

    every: Annotated[int, Field(ge=0)] = 0


class SummaryConfig(Section):
    """What is done after training for the summary."""

    sync_check_steps: Annotated[int, Field(ge=0)] = 0


class ObserveConfig(Section):
    """Who is told of a run besides its folder and the terminal.

    ``tensorboard``: event files in the run's folder (needs the extra ``report``). ``prometheus``: a port of this machine
    that serves the newest figures, to this machine only; 0 takes a free one.
    """

    tensorboard: bool = False
    prometheus: Annotated[int, Field(ge=0, le=65535)] | None = None
