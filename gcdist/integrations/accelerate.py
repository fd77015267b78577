"""Hugging Face Accelerate at the master of a coded run: pip install 'gcdist[accelerate]'.

    with gcdist.integrations.connect(task, config) as cluster:              # workers serve in here
        accelerator = CodedAccelerator(cluster, log_with="tensorboard", project_dir="out")
        model, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)
        for step in accelerator.steps(1000):
            info = accelerator.backward(step)                                # for accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()

Workers compute the task's loss; trackers, clipping, schedulers, ``save_state`` and ``load_state`` are Accelerate's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gcdist import Cluster, ConfigError, Step, StepInfo
from gcdist.integrations.rounds import Rounds, missing, refuse

try:
    from accelerate import Accelerator
    from accelerate.utils import DistributedType
except ImportError as error:
    raise missing("accelerate", "accelerate", error) from error


class CodedAccelerator(Accelerator):  # type: ignore[misc]
    """An `accelerate.Accelerator` of one process, whose backward pass is a coded round.

    Args:
        cluster: of `gcdist.integrations.connect` or `gcdist.simulate`.
        more: of the Accelerator. The number of the next step is in each state that it saves.

    Raises:
        ConfigError: what cannot work with a loss that workers compute, a line each.
    """

    def __init__(self, cluster: Cluster, **more: Any) -> None:
        self.cluster = Rounds(cluster).cluster
        super().__init__(**more)
        accumulated, precision = self.gradient_accumulation_steps, str(self.mixed_precision)
        refuse(
            "CodedAccelerator",
            (
                accumulated != 1,
                f"gradient_accumulation_steps: found {accumulated}; take more partitions (code.partitions), which a worker "
                "computes one after the other",
            ),
            (
                precision != "no",
                f"mixed_precision: found {precision}; workers compute the loss: put torch.autocast (bfloat16) into loss_fn",
            ),
            (
                self.distributed_type != DistributedType.NO or self.num_processes != 1,
                f"found {self.num_processes} processes ({self.distributed_type}): connect with gcdist.integrations.connect, "
                "before anything of Accelerate is made",
            ),
        )
        self.register_for_checkpointing(_NextStep(cluster))

    def steps(self, count: int) -> Iterator[Step]:
        """The steps that are left of ``count``, after a `load_state` as well; see `Cluster.steps`."""
        return self.cluster.steps(max(0, count - self.cluster.accounts.next))

    def backward(self, loss: Step, **more: Any) -> StepInfo:
        """One coded round of the step: fills ``.grad``.

        Raises:
            ConfigError: a loss was given: workers compute it.
            RunHaltedError, RunStoppedError: as `Step.backward`.
        """
        if not isinstance(loss, Step):
            raise ConfigError(
                f"CodedAccelerator.backward: found {type(loss).__name__}; give the step of accelerator.steps(...): workers "
                "compute the loss of the task"
            )
        return loss.backward()

    def accumulate(self, *models: Any) -> Any:
        """Refused: more partitions do the same."""
        raise ConfigError(
            "CodedAccelerator.accumulate: take more partitions (code.partitions); a worker computes them one after the other"
        )


class _NextStep:
    """What Accelerate's states keep of a run: the number of its next step."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def state_dict(self) -> dict[str, int]:
        """The number of the next step."""
        return {"step": self._cluster.accounts.next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on there."""
        if self._cluster.accounts.next != state["step"]:
            self._cluster.begin_at(state["step"])
