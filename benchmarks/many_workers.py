"""More workers than anybody has, on a virtual clock: how long a run takes by their number, with local data, under churn.

    python benchmarks/many_workers.py [--experiments sizes,local,churn] [--jobs 2] [--json FILE] [--plots FOLDER]

Quadratics of 50 parameters, one step size for everybody, a target of the loss above the optimum; seconds are virtual, so
that other work on the machine changes nothing. One worker alone would compute a global batch in `ALONE` seconds, so n of
them have a pace, the least time of an even share, of ``ALONE / n``; delays are those of `gcdist bench wallclock`.

sizes: the same global batch of 16,384 samples by 8 to 10,000 workers, slow ones among them; "pareto-master" gives the
simulated master the processor that `one_master.py` measured. local: ten sites with data of their own, of which the last is
ten times slower; who reads what: "own" part only, "two" parts (its own and that of a worker half the cluster away), or
"shared", all of it. churn: workers are killed, or cut off without a word, at random times, and come back a minute later.

Each cell is a file in ``--out``; the same command goes on where it stopped. "auto-known" is `auto` with
``straggler.p = "model"``: the chances to be late are known and need no learning.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gcdist
from gcdist.bench.cells import get_scheme, write_json
from gcdist.bench.plots import MARKERS, STYLES, save
from gcdist.bench.scenarios import make_scenario
from gcdist.tasks import load_task
from gcdist.types import F64, RunHaltedError

ALONE = 64.0  # seconds of one worker for a global batch
BATCH, LR, TARGET = 16_384, 1.0, 0.003
STEPS = 400
SHARE = 4  # partitions of an even share, as long as there are samples
SIZES = (8, 32, 128, 512, 2048, 10_000)
# the largest cluster of a scheme in "sizes", and up to which there are three seeds: beyond it takes too long to simulate
LARGEST = {"sync": 10_000, "osgc": 512, "auto": 512, "auto-known": 10_000}
THREE_SEEDS = {"sync": 128, "osgc": 128, "auto": 32, "auto-known": 32}
WHOLE_ROWS = 2.0  # paces: the deadline of schemes that learn none
MASTER = {"master_message_seconds": 136e-6, "master_byte_seconds": 1.06e-9}
SITES, SLOWER, LOCAL_PACE, LOCAL_SECONDS = 10, 10.0, 1.0, 800.0
CHURN_PACE, BACK = 10.0, 60.0  # seconds; the second until a worker that has left is back
LEAVE = {"calm": (None, 0.0), "kill-1%": ("kill", 0.01), "silent-1%": ("cut", 0.01), "kill-10%": ("kill", 0.1)}
KEPT = 60  # points of a curve
FIRST = 5  # steps that the length of the gradient leaves out


@dataclass(frozen=True, slots=True)
class Cell:
    """One run. ``case``: the delays, who reads what, or how many of the workers leave in a minute."""

    experiment: str
    case: str
    scheme: str
    workers: int
    seed: int

    @property
    def place(self) -> Path:
        """Of its file, below the folder of all."""
        return Path(self.experiment, self.case, self.scheme, f"{self.workers}-{self.seed}.json")


def cells() -> Iterator[Cell]:
    """All runs, those with few workers first."""
    for n in SIZES:
        for case in ("exponential", "pareto", "pareto-master"):
            for scheme, largest in LARGEST.items():
                master = case == "pareto-master"
                if n > (2048 if master or case == "exponential" else largest):
                    continue
                if n > largest or (master and (scheme in ("osgc", "auto") or n < 128)):
                    continue
                seeds = 3 if n <= THREE_SEEDS[scheme] and not master else 1
                yield from (Cell("sizes", case, scheme, n, seed) for seed in range(seeds))
    for n in (64, 256):
        for scheme in ("sync", "ignore-rescaled", "memory", "auto", "auto-known"):
            yield Cell("local", "own", scheme, n, 0)
        yield from (
            Cell("local", case, scheme, n, 0) for case in ("two", "shared") for scheme in ("auto", "auto-known")
        )
    for n, cases in ((256, tuple(LEAVE)), (1000, ("calm", "kill-1%"))):
        for case in cases:
            for scheme in ("sync", "auto", "auto-known") if n == 256 else ("sync", "auto-known"):
                yield Cell("churn", case, scheme, n, 0)


def settings(cell: Cell) -> tuple[gcdist.Task, gcdist.Config]:
    """Task and settings of a run."""
    n, local = cell.workers, cell.experiment == "local"
    k = SHARE * n if local else min(SHARE * n, BATCH)
    data = (
        {"samples": k, "blocks": SITES, "differ": 1.0} if local else {"samples": 4 * BATCH, "blocks": 64, "noise": 0.7}
    )
    options = {"differ": 0.5, "condition": 20.0, "dim": 50, "seed": cell.seed, **data}
    batch = 1 if local else BATCH // k
    pace = {"sizes": ALONE / n, "local": LOCAL_PACE, "churn": CHURN_PACE}[cell.experiment]
    what = get_scheme(cell.scheme.removesuffix("-known"))
    learns = "wait" if what.kind == "waits" else "auto" if what.name == "auto" else WHOLE_ROWS * pace
    known = cell.scheme.endswith("-known") or what.name == "osgc"
    config = gcdist.Config(
        seed=cell.seed,
        steps=STEPS,
        task={"name": "quadratic", "batch_size": batch, "options": options},
        code={"partitions": k, **what.code},
        quantizer=dict(what.quantizer),
        straggler={"deadline": learns, "p": "model" if known else "measured", "max_wait": 3600.0},
        inject=injected(cell, k / n, pace),
        data={"holds": holds(cell.case, n)} if local else {},
        faults=faults(cell),
        cluster={"workers": n, "min_workers": n // 2},
        checkpoint={"keep": 0},
        simulate={"compute_seconds": 0.0, **(MASTER if cell.case == "pareto-master" else {})},
    )
    return load_task("quadratic", options, batch, Path()), config


def injected(cell: Cell, share: float, pace: float) -> dict[str, Any]:
    """The delays."""
    if cell.experiment != "local":
        name = cell.case.removesuffix("-master") if cell.experiment == "sizes" else "mild"
        return dict(make_scenario(name, cell.workers, share, pace).inject)
    slow = [SLOWER if i * SITES >= (SITES - 1) * cell.workers else 1.0 for i in range(cell.workers)]
    shift, mean = ([part * pace / share * each for each in slow] for part in (1.0, 0.2))
    return {"model": "shifted-exponential", "shift": shift, "mean": mean, "scale_with_load": True, "where": "compute"}


def holds(case: str, n: int) -> list[list[int]] | None:
    """The partitions that each worker reads."""
    if case == "shared":
        return None
    far = (0, n // 2) if case == "two" else (0,)
    return [[SHARE * ((i + ahead) % n) + j for ahead in far for j in range(SHARE)] for i in range(n)]


def faults(cell: Cell) -> list[dict[str, Any]]:
    """Who leaves, and how."""
    kind, share = LEAVE.get(cell.case, (None, 0.0))
    return [{"kind": kind, "every": 60 / (share * cell.workers), "seconds": BACK}] if kind else []


def measured(cell: Cell) -> dict[str, Any]:
    """The figures of a run; ``length``: of the gradient along the true one, over the true one's, mean over the steps.

    ``left``: how often a worker left; ``live``: workers at a step's opening, mean.
    """
    torch.set_num_threads(1)
    began, (task, config) = time.process_time(), settings(cell)
    seconds: list[float] = []
    steps: list[float] = []
    loss: list[float] = []
    lengths: list[float] = []
    live: list[int] = []
    left, why = 0, ""

    def say(kind: str, text: str) -> None:
        nonlocal left
        left += kind == "fault"

    with (
        tempfile.TemporaryDirectory(prefix="gcdist-many-") as folder,
        gcdist.simulate(task, config, folder=Path(folder, "run"), say=say) as cluster,
    ):
        optimizer = torch.optim.SGD(task.model.parameters(), LR)
        try:
            for step in cluster.steps(STEPS):
                true_D = true_gradient(task)
                info = step.backward()
                made = task.model.get_parameter("x").grad  # None where nobody arrived
                if cell.experiment != "local":  # there the true one vanishes
                    lengths.append(0.0 if made is None else float(made.numpy() @ true_D / (true_D @ true_D)))
                optimizer.step()
                seconds.append(info.seconds)
                steps.append(info.step_seconds)
                live.append(info.live)
                loss.append(task.evaluate(task.model)["excess_loss"])  # type: ignore[misc]
                if over(cell, info.seconds, loss):
                    break
        except RunHaltedError as error:
            why = str(error).splitlines()[0]
    return {**asdict(cell), **figures(seconds, steps, loss, lengths, live), "left": left, "halted": why,
            "processor": time.process_time() - began}  # fmt: skip


def true_gradient(task: gcdist.Task) -> F64:
    """Of the loss over all samples, (d,)."""
    x_D: F64 = task.model.get_parameter("x").detach().numpy().astype(np.float64)
    found: F64 = task.dataset.hessian_D * (x_D - task.dataset.optimum)
    return found


def over(cell: Cell, seconds: float, loss: list[float]) -> bool:
    """Whether the run has ended: at the target, or with local data after a time, because the last loss is asked for."""
    return not loss[-1] < 1e3 or (seconds > LOCAL_SECONDS if cell.experiment == "local" else loss[-1] < TARGET)


def figures(
    seconds: list[float], steps: list[float], loss: list[float], lengths: list[float], live: list[int]
) -> dict[str, Any]:
    """What is kept of the steps; ``reached``: seconds until the loss was below the target first, None: it never was."""
    below = [i for i, each in enumerate(loss) if each < TARGET]
    spaced = sorted({round(x) - 1 for x in np.geomspace(1, len(loss), KEPT).tolist()}) if loss else []
    return {
        "reached": seconds[below[0]] if below else None,
        "steps": below[0] + 1 if below else len(loss),
        "first step": steps[0] if steps else None,
        "step": statistics.median(steps[1:]) if len(steps) > 1 else None,
        "loss": statistics.fmean(loss[-10:]) if loss else None,
        "length": statistics.fmean(lengths[FIRST:]) if len(lengths) > FIRST else None,
        "live": statistics.fmean(live) if live else None,
        "curve": [(round(seconds[i], 4), float(f"{loss[i]:.4g}")) for i in spaced],
    }


def kept(path: Path, cell: Cell) -> dict[str, Any]:
    """The figures of a run that was made before, or is made now."""
    if not path.exists():
        write_json(path, measured(cell))
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def line(row: Mapping[str, Any]) -> str:
    """A run in a line."""

    def shown(name: str, width: int) -> str:
        return f"{row[name]:>{width}.3g}" if row[name] is not None else f"{'-':>{width}}"

    return (
        f"{row['experiment']:>6} {row['case']:>14} {row['scheme']:>16} {row['workers']:>6} {row['seed']:>4} "
        f"{shown('reached', 9)} {row['steps']:>6} {shown('first step', 10)} {shown('step', 8)} {shown('loss', 9)} "
        f"{shown('length', 7)} {shown('live', 6)} {row['left']:>5} {row['processor']:>10.0f} {row['halted'][:60]}"
    )


HEAD = (
    f"{'':>6} {'case':>14} {'scheme':>16} {'n':>6} {'seed':>4} {'reached':>9} {'steps':>6} {'first step':>10} "
    f"{'step':>8} {'loss':>9} {'length':>7} {'live':>6} {'left':>5} {'processor':>10}"
)


def plot_sizes(rows: list[dict[str, Any]], path: Path) -> None:
    """Seconds to the target by number of workers, a panel for each kind of delays with more than one number of them."""
    from matplotlib import pyplot

    sizes = {case: {row["workers"] for row in rows if row["case"] == case} for case in ("exponential", "pareto")}
    cases = [case for case, found in sizes.items() if len(found) > 1]
    if not cases:
        return
    figure, axes = pyplot.subplots(
        1, len(cases), figsize=(1 + 5 * len(cases), 4.6), layout="constrained", sharey=True, squeeze=False
    )
    for axis, case in zip(axes[0], cases, strict=True):
        for i, scheme in enumerate(LARGEST):
            for part, of_case in ((0, case), (1, f"{case}-master")):
                found: dict[int, list[float]] = {}
                for row in rows:
                    if (row["case"], row["scheme"]) == (of_case, scheme) and row["reached"] is not None:
                        found.setdefault(row["workers"], []).append(row["reached"])
                if found:
                    label = f"{scheme}, master of one_master.py" if part else scheme
                    axis.plot(
                        list(found), [statistics.median(each) for each in found.values()],
                        STYLES[part and 3], marker=MARKERS[i], markerfacecolor="none" if part else f"C{i}", color=f"C{i}",
                        label=label,
                    )  # fmt: skip
        n = np.array(sorted(sizes[case]))
        axis.plot(n, 45 * ALONE / n, color="0.7", linewidth=1, label="45 steps of a pace each")
        axis.set(xscale="log", yscale="log", xlabel="workers", title=f"delays: {case}")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    axes[0][0].set_ylabel("virtual seconds to the target")
    save(figure, path)


def plot_local(rows: list[dict[str, Any]], path: Path) -> None:
    """Loss against time, a panel a number of workers."""
    from matplotlib import pyplot

    sizes = sorted({row["workers"] for row in rows})
    figure, axes = pyplot.subplots(1, len(sizes), figsize=(5 * len(sizes), 4.4), layout="constrained", squeeze=False)
    for axis, n in zip(axes[0], sizes, strict=True):
        for i, row in enumerate(row for row in rows if row["workers"] == n):
            label = f"{row['scheme']}, {row['case']}"
            axis.plot(*zip(*row["curve"], strict=True), STYLES[i % 4], color=f"C{i}", label=label)
        axis.axhline(TARGET, color="0.5", linewidth=0.7)
        axis.set(
            xscale="log", yscale="log", xlabel="virtual seconds", title=f"{n} workers, the last tenth ten times slower"
        )
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    axes[0][0].set_ylabel("loss above the optimum")
    save(figure, path)


def main() -> None:
    """Make the runs that are missing, print all, write and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", default="sizes,local,churn", help="with commas")
    parser.add_argument("--largest", type=int, default=max(SIZES), help="leave out larger clusters")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    parser.add_argument("--out", type=Path, default=Path("runs/many"), help="folder of the cells")
    parser.add_argument("--only-made", action="store_true", help="make no runs: show those that are there")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--plots", type=Path, help="draw the pictures there")
    asked = parser.parse_args()
    names, known = asked.experiments.split(","), sorted({cell.experiment for cell in cells()})
    if unknown := [name for name in names if name not in known]:
        parser.error(f"--experiments: found {unknown[0]!r}; allowed: {', '.join(known)}")
    wanted = [cell for cell in cells() if cell.experiment in names and cell.workers <= asked.largest]
    if asked.only_made:
        wanted = [cell for cell in wanted if (asked.out / cell.place).exists()]
    print(HEAD)
    rows = []
    with ProcessPoolExecutor(asked.jobs) as pool:
        for row in pool.map(kept, [asked.out / cell.place for cell in wanted], wanted):
            rows.append(row)
            print(line(row), flush=True)
    print(f"{sum(row['processor'] for row in rows) / 60:.0f} minutes of a processor")
    if asked.json:
        told = [{key: row[key] for key in row if key != "curve" or row["experiment"] == "local"} for row in rows]
        write_json(asked.json, {"benchmark": "many workers", "rows": told})
    if asked.plots:
        for name, draw in (("sizes", plot_sizes), ("local", plot_local)):
            if found := [row for row in rows if row["experiment"] == name]:
                draw(found, asked.plots / f"many-workers-{name}.png")


if __name__ == "__main__":
    main()
