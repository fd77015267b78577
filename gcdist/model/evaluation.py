"""The task's own evaluation on the master's model; it leaves the model as it was."""

from __future__ import annotations

import traceback
from collections.abc import Mapping

import torch
from torch import nn

from gcdist.model.randomness import generators_kept
from gcdist.model.user_traceback import users_traceback
from gcdist.tasks.task import Evaluate
from gcdist.types import RunHaltedError


def evaluated(model: nn.Module, evaluate: Evaluate) -> dict[str, float]:
    """``evaluate(model)`` in eval mode and without gradients; each module's mode and the global generators stay as before.

    Raises:
        RunHaltedError: it raised; the text has the user's traceback.
        ValueError: it gave something other than numbers by name.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), generators_kept():
            found = evaluate(model)
    except Exception as error:
        what = "".join(traceback.format_exception_only(error)).strip()
        raise RunHaltedError(f"evaluate raised {what}\n{users_traceback(error)}".rstrip()) from None
    finally:
        for module, training in modes:
            module.training = training
    if not isinstance(found, Mapping):
        raise ValueError(f"evaluate must give a dict of numbers by name, found {type(found).__name__}")
    metrics = {}
    for name, value in found.items():
        try:
            metrics[str(name)] = float(value)
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f"evaluate: {name} must be one number, found {type(value).__name__}") from None
    return metrics
