"""The observers that the settings ask for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gcdist.config import Config, ConfigError
from gcdist.observe import Observer
from gcdist.observe.prometheus import Prometheus
from gcdist.observe.tensorboard import TensorBoard


def configured(config: Config, folder: Path, say: Callable[[str, str], None]) -> list[Observer]:
    """New observers, as ``[observe]`` says; event files go into the run's folder.

    Raises:
        ConfigError: the extra is not installed, or the port is taken.
    """
    observers: list[Observer] = []
    if config.observe.tensorboard:
        try:
            observers.append(TensorBoard(folder / "tensorboard"))
        except ImportError as error:
            raise ConfigError(f"observe.tensorboard: {error}") from None
    if config.observe.prometheus is not None:
        try:
            served = Prometheus(config.observe.prometheus)
        except OSError as error:
            raise ConfigError(
                f"observe.prometheus: port {config.observe.prometheus} of this machine cannot be had: {error.strerror}"
            ) from None
        say("observe", f"figures for Prometheus: http://127.0.0.1:{served.port}/metrics")
        observers.append(served)
    return observers
