"""hivemind, its Optimizer in the synchronous form that it has by default: a global batch, then averaged gradients.

Workers compute batch after batch at their own pace; when all together have the global batch, they look for each other
(``matchmaking_time``), average and step. A slow worker's share is computed by the faster ones.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable

import torch

from gcdist.bench.peers import Seat

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


class Trainer:
    """One worker; one that comes back loads the others' state by itself."""

    def __init__(self, seat: Seat) -> None:
        import hivemind

        self._dht = _dht(seat.meeting, seat.own)
        self.model = seat.task.model
        self.optimizer = hivemind.Optimizer(
            dht=self._dht,
            run_id="gcdist-bench",
            batch_size_per_step=seat.samples,
            target_batch_size=seat.samples * seat.workers,
            params=[p for p in self.model.parameters() if p.requires_grad],
            optimizer=lambda params: torch.optim.SGD(params, lr=seat.lr),
            matchmaking_time=seat.patience,
            averaging_timeout=AVERAGING * seat.patience,
            averager_opts={
                "request_timeout": seat.patience / 2
            },  # below the matchmaking time, as hivemind's warning asks
            tracker_opts={"min_refresh_period": REFRESH, "default_refresh_period": 4 * REFRESH},
        )

    @property
    def steps(self) -> int:
        """Made by all together."""
        return int(self.optimizer.local_epoch)

    @property
    def counted(self) -> int:
        """Workers that the tracker knows."""
        return int(self.optimizer.tracker.global_progress.num_peers)

    def close(self) -> None:
        """Leave the others."""
        self.optimizer.shutdown()
        self._dht.shutdown()  # type: ignore[attr-defined]
