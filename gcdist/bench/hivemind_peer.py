"""hivemind, its Optimizer in the synchronous form that it has by default: a global batch, then averaged gradients.

Workers compute batch after batch at their own pace; when all together have the global batch, they look for each other
(``matchmaking_time``), average and step. A slow worker's share is computed by the faster ones.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable

import torch

from gcdist.bench.peers import LossOf
from gcdist.tasks import Task

RINGS = 2  # all-reduces of the vector's size in a step: gradients, and the state averaged behind it
AVERAGING = 4.0  # times the matchmaking: 60 s of 15 s by default
REFRESH = 0.05  # s, at least, between two looks at the others' progress; hivemind's 0.5 s is ten of our steps


def _dht(meeting: str, own: str) -> object:
    import hivemind

    # its averagers are processes that hold locks: they can be forked only
    multiprocessing.set_start_method("fork", force=True)
    peers = {"initial_peers": [meeting]} if meeting else {}
    return hivemind.DHT(host_maddrs=[f"/ip4/{own}/tcp/0"], start=True, **peers)


def meet(own: str, workers: int, patience: float) -> tuple[str, Callable[[], None]]:
    """The first peer of the hash table, which trains nothing: its address, and the function that ends it."""
    dht = _dht("", own)
    return str(dht.get_visible_maddrs()[0]), dht.shutdown  # type: ignore[attr-defined]


class _Trainer:
    def __init__(
        self, task: Task, workers: int, lr: float, samples: int, meeting: str, own: str, patience: float
    ) -> None:
        import hivemind

        self._dht = _dht(meeting, own)
        self._model = task.model
        self._optimizer = hivemind.Optimizer(
            dht=self._dht,
            run_id="gcdist-bench",
            batch_size_per_step=samples,
            target_batch_size=samples * workers,
            params=[p for p in task.model.parameters() if p.requires_grad],
            optimizer=lambda params: torch.optim.SGD(params, lr=lr),
            matchmaking_time=patience,
            averaging_timeout=AVERAGING * patience,
            averager_opts={"request_timeout": patience / 2},  # below the matchmaking time, as hivemind's warning asks
            tracker_opts={"min_refresh_period": REFRESH, "default_refresh_period": 4 * REFRESH},
        )

    @property
    def steps(self) -> int:
        return int(self._optimizer.local_epoch)

    def step(self, loss_of: LossOf, until: float) -> None:
        self._optimizer.zero_grad()
        loss = loss_of(self._model)
        time.sleep(max(0.0, until - time.perf_counter()))
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()

    def close(self) -> None:
        self._optimizer.shutdown()
        self._dht.shutdown()  # type: ignore[attr-defined]


def make_trainer(
    task: Task,
    rank: int,
    workers: int,
    lr: float,
    samples: int,
    meeting: str,
    own: str,
    patience: float,
    fresh: bool = True,
) -> _Trainer:
    """A worker; one that comes back loads the others' state by itself."""
    return _Trainer(task, workers, lr, samples, meeting, own, patience)
