"""A trainer's loop as coded rounds: one item of its data loader a step, which holds no sample."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import gcdist
from gcdist import Cluster, ConfigError, RunHaltedError, Step, StepInfo

_WITHOUT_END = 10**9  # steps: the most that settings may say; the trainer ends the loop


class _Nothing(Dataset[int]):
    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> int:
        return index


def _no_samples(indices: list[int]) -> dict[str, Tensor]:
    return {}


def round_loader(steps: int) -> DataLoader[int]:
    """A loader of ``steps`` empty batches, in place of the training data: the workers read those."""
    return DataLoader(_Nothing(steps), batch_size=1, collate_fn=_no_samples)


class Rounds:
    """Hands a cluster's steps to a loop that asks for a backward pass whenever it likes.

    Args:
        cluster: of `gcdist.integrations.connect` or `gcdist.simulate`.

    Raises:
        ConfigError: not a cluster of one's own making, or one that was resumed: the trainer resumes by its checkpoints.
    """

    def __init__(self, cluster: Cluster) -> None:
        if not isinstance(cluster, gcdist.Cluster):
            raise ConfigError(
                f"trainer: found {type(cluster).__name__} in place of a cluster; only the master makes a trainer"
            )
        if cluster.checkpoints.resumed is not None:
            raise ConfigError(
                "resume: the run was resumed by gcdist; a trainer goes on from its own checkpoints, with a new run of gcdist"
            )
        self.cluster = cluster
        self.info: StepInfo | None = None
        self._loss = float("nan")
        self._steps: Iterator[Step] | None = None

    @property
    def global_batch(self) -> int:
        """Samples of a step: partitions x batch_size."""
        return len(self.cluster.session.sizes_K) * self.cluster.session.task.batch_size

    def backward(self, at: int) -> StepInfo:
        """One coded round: fills ``.grad``.

        Args:
            at: steps that the trainer has made, in this run or before it was resumed: the number of a run's first step.

        Raises:
            RunHaltedError, RunStoppedError: as `gcdist.Step.backward`.
        """
        if self._steps is None:
            if at and not self.cluster.accounts.next:
                self.cluster.begin_at(at)
            self._steps = self.cluster.steps(_WITHOUT_END)
        self.info = next(self._steps).backward()
        if self.info.loss is not None:  # nobody arrived: the last loss is as good a guess as any
            self._loss = self.info.loss
        return self.info

    def loss(self, device: torch.device | str = "cpu") -> Tensor:
        """The mean loss of what arrived, 0-dim float32; if nobody did, that of the step before."""
        return torch.tensor(self._loss, device=device)

    def finish(self) -> None:
        """The trainer's loop is over: what a checkpoint lacks is saved.

        Raises:
            RunHaltedError: no step gave a gradient.
        """
        if self._steps is None:
            return
        self._steps.close()  # type: ignore[attr-defined]
        self._steps = None
        accounts = self.cluster.accounts
        if accounts.trained and not accounts.estimated:
            raise RunHaltedError(f"nothing was learned: no gradient arrived in any of {accounts.trained} steps")


def refuse(where: str, *pairs: tuple[object, str]) -> None:
    """ConfigError with a line for each pair whose first part is true."""
    lines = [f"{where}: {line}" for wrong, line in pairs if wrong]
    if lines:
        raise ConfigError("\n".join(lines))


def missing(module: str, extra: str, error: ImportError) -> ImportError:
    """What to install."""
    return ImportError(f"gcdist.integrations.{extra} needs {module}: pip install 'gcdist[{extra}]' ({error})")
