"""The settings as a run really is: those of a script's own task, optimizer and steps, with paths that hold anywhere."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from gcdist.config import Config, OptimizerConfig, absolute, dump_config
from gcdist.run.session import Session
from gcdist.tasks.registry import SCRIPT

# groups of PyTorch's optimizers have these keys; others than their defaults cannot be said in the settings
_DEFAULTS: dict[str, Any] = {
    "dampening": 0, "nesterov": False, "betas": (0.9, 0.999), "eps": 1e-8, "amsgrad": False, "maximize": False,
}  # fmt: skip
_KINDS = {torch.optim.SGD: "sgd", torch.optim.Adam: "adam", torch.optim.AdamW: "adamw"}


def script() -> str:
    """The path of the script that Python runs; "-" if it is none."""
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    return "-" if file is None else str(Path(file).resolve())


def settings_text(session: Session, optimizer: torch.optim.Optimizer | None = None, steps: int | None = None) -> str:
    """``config.toml`` of the run: `load_config` reads it from anywhere; see `as_run`."""
    config, lines = as_run(session, optimizer, steps)
    return "".join(f"# {line}\n" for line in lines) + dump_config(config)


def as_run(
    session: Session, optimizer: torch.optim.Optimizer | None = None, steps: int | None = None
) -> tuple[Config, list[str]]:
    """The settings as the run really is, and lines about what they cannot say.

    Args:
        session: the run's parts.
        optimizer: that the script tracks.
        steps: that it has asked for.
    """
    config = absolute(session.config)
    if session.task.origin is not None:
        return config, []
    found = None if optimizer is None else optimizer_settings(optimizer)
    values = {key: getattr(config, key) for key in type(config).model_fields}
    values["task"] = {"name": f"{SCRIPT}{script()}", "batch_size": session.task.batch_size}
    if steps:
        values["steps"], values["epochs"] = steps, None
    elif config.epochs is not None:
        del values["steps"]
    lines = [f"The run of a script, {script()}: its task is built there."]
    if found is not None:
        values["optimizer"] = found
    else:
        told = "none was tracked" if optimizer is None else " ".join(repr(optimizer).split())
        lines.append(f"The section optimizer is not the script's: {told}")
    return Config(**values), lines


def optimizer_settings(optimizer: torch.optim.Optimizer) -> OptimizerConfig | None:
    """The section ``optimizer`` that makes the same one; None if there is none."""
    name = _KINDS.get(type(optimizer))
    if name is None or len(optimizer.param_groups) != 1:
        return None
    group = optimizer.param_groups[0]
    if any(group[key] != default for key, default in _DEFAULTS.items() if key in group):
        return None
    values: dict[str, Any] = {
        "name": name,
        "lr": float(group.get("initial_lr", group["lr"])),
        "weight_decay": float(group["weight_decay"]),
    }
    if name == "sgd":
        values["momentum"] = float(group["momentum"])
    return OptimizerConfig(**values) if values["lr"] > 0 else None
