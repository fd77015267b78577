"""Replicas have the same bits at all ends in random worlds of both machines, whatever arrives in whatever order."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from gcdist.exchange.replica import Difference, DifferenceCoder, Replica, pack_round
from gcdist.protocol import Peer
from gcdist.protocol import master_io as m
from gcdist.protocol import worker_io as w
from gcdist.quantize import bits_allowed, get_quantizer, quantizer_names
from gcdist.types import U8, Layout
from tests.protocol.proc import MASTER
from tests.protocol.world import World

LAYOUT = Layout.by_parameter([600, 3, 97])  # more than a bucket, a wide segment, a short one
D = LAYOUT.d
SCHEDULES = 120  # of each quantizer


@pytest.mark.parametrize("name", quantizer_names())
def test_replicas_have_the_same_bits_at_all_ends(name: str) -> None:
    quantizer = get_quantizer(name)
    widths, seen = bits_allowed(quantizer), Counter[str]()
    for seed in range(SCHEDULES):
        run_world(seed, DifferenceCoder(quantizer, widths[seed % len(widths)], seed), seen)
    assert seen["one difference"] > SCHEDULES
    assert seen["several differences"] > SCHEDULES / 40
    assert seen["whole"] > SCHEDULES
    assert seen["taken and dropped"]


def run_world(seed: int, coder: DifferenceCoder, seen: Counter[str]) -> None:
    """Replay one world's rounds with real parameters; each life on its link has a replica of its own."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(D, np.float32)
    master, made = Replica(coder), list[Difference]()
    truth: dict[int, bytes] = {}
    bodies: dict[tuple[Peer, int], U8] = {}
    ends: dict[tuple[int, int], Replica] = {}
    for did in World(seed).run():
        if did.who == MASTER:
            if isinstance(did.event, m.OpenStep):
                x += np.float32(rng.choice((0.0, 1e-3, 1.0))) * rng.standard_normal(D, np.float32)
                if master.version is None:
                    master.vector, master.version = x.copy(), did.event.params
                else:
                    made.append(coder.encode(x - master.vector, did.event.params, LAYOUT))
                    master.add(made[-1:], LAYOUT)
                truth[did.event.params] = master.vector.tobytes()
            for told in did.out:
                if isinstance(told, m.SendRound):
                    base = told.round.base
                    wanted = [] if base is None else [each for each in made if each.version > base]
                    floats, ints = np.ones(3, np.float32), np.ones(5, np.uint8)
                    bodies[told.peer, told.round.step] = pack_round(master, wanted, floats, ints, True)
                    seen[
                        "whole" if base is None else "one difference" if len(wanted) == 1 else "several differences"
                    ] += 1
            continue
        replica = ends.setdefault((did.who, did.life), Replica(coder))
        for told in did.out:
            if isinstance(told, w.Load | w.Take):
                sent = told.round
                body = replica.take(bodies[Peer(did.who, did.inc), sent.step], sent.params, sent.base, LAYOUT)
                assert (body.floats.tolist(), body.ints.tolist()) == ([1] * 3, [1] * 5)
                assert replica.vector.tobytes() == truth[sent.params]
                seen["taken and dropped"] += isinstance(told, w.Take)
