"""A run with parts of one's own, in processes; the argument is the run's folder."""

from __future__ import annotations

import sys
from pathlib import Path

import gcdist
from tests.run.own_parts import config, register, task, train


def main() -> None:
    register()
    mine = task()
    with gcdist.connect(mine, config(), folder=Path(sys.argv[1]), on_worker="return") as cluster:
        losses = train(cluster, mine.model)
        if losses:
            print("losses", *losses)


main()
