"""The compared schemes: gcdist's, with the settings of their papers, PyTorch's DistributedDataParallel, torchft, hivemind.

A new scheme joins by one line: ``register(BenchScheme("mine", "about", code={"scheme": "mine"}))``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from gcdist.coding import get_code
from gcdist.types import GradientCode

FLOAT32 = {"name": "float32", "bits": 32}
FOUR_BITS = {"name": "rotated-dither", "bits": 4}


@dataclass(frozen=True, slots=True)
class BenchScheme:
    """One line of the tables; ``code`` and ``quantizer`` are these sections of the settings.

    ``tunes``: "deadline" (step size and deadline are tuned), "step" (the scheme waits, or finds its deadline itself).
    ``start``: the start of the search for a deadline, over the usual start. ``like``: the gcdist scheme whose tuned
    step size and samples a scheme of another engine takes, because the simulator has none. ``patience``: another project's
    timeouts in seconds, tried by real runs; the last is the one of its documentation.
    """

    name: str
    about: str
    code: Mapping[str, Any] = field(default_factory=dict)
    quantizer: Mapping[str, Any] = field(default_factory=lambda: FLOAT32)
    tunes: Literal["deadline", "step"] = "deadline"
    deadline: Literal["wait", "auto"] = "wait"  # if it is not tuned
    start: float = 1.0
    engine: Literal["gcdist", "ddp", "torchft", "hivemind"] = "gcdist"
    hook: Literal["", "bf16", "powersgd"] = ""
    like: str = ""
    patience: tuple[float, ...] = ()  # s: timeouts of another project that its tuning tries; the last is its own

    @property
    def kind(self) -> Literal["waits", "coded", "biased"]:
        """Whether it waits until it is exact, or is unbiased without some workers, or neither."""
        if self.engine != "gcdist":
            return "waits"
        return "waits" if self._code.waits else "coded" if self._code.unbiased else "biased"

    @property
    def cuts(self) -> bool:
        """Whether its rows are cut at the deadline, so that computed partitions count."""
        return self.engine == "gcdist" and bool(self.code.get("partial", self._code.partial))

    @property
    def plans(self) -> bool:
        """Whether its master learns when messages come, and plans by it: more work between two steps than for the others."""
        return self.engine == "gcdist" and not self._code.waits and self._code.unbiased

    @property
    def _code(self) -> GradientCode:
        return get_code(self.code["scheme"], **self.code.get("options", {}))


SCHEMES: dict[str, BenchScheme] = {}


def register(scheme: BenchScheme) -> BenchScheme:
    """Add a scheme to the benchmark; ValueError if its name is taken."""
    if scheme.name in SCHEMES:
        raise ValueError(f"scheme {scheme.name!r} is there already")
    SCHEMES[scheme.name] = scheme
    return scheme


WHOLE = {"partial": False}  # the papers' form: a row counts whole or not at all
CUT_EARLY = 0.3  # of the usual first deadline: the best cut is near half the time of an even share


def _gcdist(name: str, about: str, code: str = "", section: Mapping[str, Any] = {}, **more: Any) -> None:
    register(BenchScheme(name, about, {"scheme": code or name, **section}, **more))


def _fill() -> None:
    ddp: dict[str, Any] = {"engine": "ddp", "tunes": "step", "like": "sync"}
    register(BenchScheme("ddp", "PyTorch DistributedDataParallel", **ddp))
    register(BenchScheme("ddp-bf16", "DDP with the bf16 hook", hook="bf16", **ddp))
    register(BenchScheme("ddp-powersgd", "DDP with the PowerSGD hook, rank 1", hook="powersgd", **ddp))
    # torchft: the heartbeat's limit, 5 s by default; hivemind: matchmaking, "3-5 s for small local runs"
    peer: dict[str, Any] = {"tunes": "step", "like": "sync"}
    register(
        BenchScheme("torchft", "torchft's DDP: a quorum every step", engine="torchft", patience=(1.0, 2.0, 5.0), **peer)
    )
    register(BenchScheme("hivemind", "hivemind's Optimizer", engine="hivemind", patience=(0.3, 0.6, 1.2, 3.0), **peer))
    _gcdist("sync", "wait for all", tunes="step")
    _gcdist("sync-4bit", "wait for all, 4 bits", "sync", tunes="step", quantizer=FOUR_BITS)
    _gcdist("ignore", "sum of the arrived")
    _gcdist("ignore-rescaled", "times n/arrived")
    _gcdist("memory", "last gradient of each worker")
    _gcdist("frc", "fractional repetition, s = 1, exact", tunes="step")
    _gcdist("cyclic", "cyclic code, s = 1, exact", tunes="step")
    _gcdist("bgc", "Bernoulli code, r = 2")
    _gcdist("sgc", "stochastic code, r = 2")
    _gcdist("erasurehead", "groups, first arrival, r = 2")
    _gcdist("expander", "edges of a graph, least squares")
    _gcdist("adjacency", "adjacency matrix, pseudo-inverse")
    _gcdist("osgc", "paper 1: optimal structured code", section=WHOLE)
    _gcdist("joint", "paper 2: code and 4 bits", section=WHOLE, quantizer=FOUR_BITS)
    _gcdist("self-normalised", "joint, self-normalised", section=WHOLE, quantizer=FOUR_BITS)
    _gcdist("shifted", "joint, shifted", quantizer=FOUR_BITS)
    _gcdist("shifted-auto", "shifted, deadline found", "shifted", quantizer=FOUR_BITS, tunes="step", deadline="auto")
    _gcdist("partial", "joint, rows cut at the deadline", "joint", quantizer=FOUR_BITS, start=CUT_EARLY)
    _gcdist("partial-memory", "cut rows, memory of each partition", quantizer=FOUR_BITS, start=CUT_EARLY)
    _gcdist("auto", "gcdist as it comes: nothing is set", tunes="step", deadline="auto", quantizer=FOUR_BITS)
    _gcdist(
        "joint-auto",
        "joint as it comes: cut, deadline found",
        "joint",
        quantizer=FOUR_BITS,
        tunes="step",
        deadline="auto",
    )


_fill()
