"""Bits by allocation, equal bits and greedy bits at equal budgets: the noise ratio over random clusters, and its figure.

    python benchmarks/allocation.py [--draws 100] [--json FILE] [--plot FILE]

Setting of the papers: n workers, ``p_i = exp(-0.1 mu_i)`` with ``mu_i ~ U[0.01, 2]``; the noise of `qsgd` with one norm over
d coordinates (its packed bits are the papers' magnitude bits and a sign), or of another quantizer. The noise of a code whose
row sums are the best for its bits is ``k^2/F``, ``F = sum_i (1-p_i)/(p_i + omega(b_i))`` (docs/mathematics.md,
sections 2 and 3), so that the ratio of two allocations' noise is the reverse ratio of their F.

- ``allocated``: `allocate_bits`, exact by dynamic programming;
- ``papers``: the papers' search over the k most reliable workers with water-filling;
- ``equal``: the same bits for everybody (what is left over goes to the most reliable);
- ``selected``: the same bits for the best number of most reliable workers, nothing for the rest;
- ``greedy``: from nothing, one bit after another to whoever gains most by it.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from gcdist.coding import allocate_bits, row_costs
from gcdist.quantize import get_quantizer, noise_table
from gcdist.types import F64, I64

MOST_BITS = 8  # a coordinate
WAYS = ("papers", "equal", "selected", "greedy")
SETTINGS = (("qsgd", 10_000), ("qsgd", 1_000_000), ("bucket", 1_000_000), ("rotated-dither", 1_000_000))


def F(p_N: F64, noise: F64, bits_N: I64) -> float:
    """``sum_i (1-p_i)/(p_i + omega(b_i))`` over workers that have bits."""
    used = bits_N > 0
    return float(np.sum(1 / row_costs(p_N[used], noise[bits_N[used]])))


def equal(p_N: F64, noise: F64, budget: int) -> I64:
    """The same width for all, then one more width for the most reliable while the budget lasts."""
    widths = np.flatnonzero(np.isfinite(noise))
    order = np.argsort(p_N, kind="stable")
    bits_N = np.zeros(len(p_N), np.int64)
    fitting = widths[widths * len(p_N) <= budget]
    bits_N[:] = fitting[-1] if len(fitting) else 0
    for i in order:
        wider = widths[widths > bits_N[i]]
        if len(wider) and bits_N.sum() + wider[0] - bits_N[i] <= budget:
            bits_N[i] = wider[0]
    return bits_N


def selected(p_N: F64, noise: F64, budget: int) -> I64:
    """The best of: one width for the m most reliable, for every width and m."""
    order, best, found = np.argsort(p_N, kind="stable"), -1.0, np.zeros(len(p_N), np.int64)
    for width in np.flatnonzero(np.isfinite(noise)):
        bits_N = np.zeros(len(p_N), np.int64)
        bits_N[order[: budget // int(width)]] = width
        if (value := F(p_N, noise, bits_N)) > best:
            best, found = value, bits_N
    return found


def greedy(p_N: F64, noise: F64, budget: int) -> I64:
    """From nothing, the next width to whoever gains most a bit."""
    widths = np.append(0, np.flatnonzero(np.isfinite(noise)))
    with np.errstate(divide="ignore"):
        gain_NW = 1 / row_costs(p_N[:, None], noise[widths][None, :])
    gain_NW[:, 0] = 0.0
    at_N, rows, left = np.zeros(len(p_N), np.int64), np.arange(len(p_N)), budget
    while True:
        up_N = np.minimum(at_N + 1, len(widths) - 1)
        cost_N = widths[up_N] - widths[at_N]
        rise_N = np.where((cost_N > 0) & (cost_N <= left), gain_NW[rows, up_N] - gain_NW[rows, at_N], -np.inf)
        i = int(np.argmax(rise_N / np.maximum(cost_N, 1)))
        if not rise_N[i] > 0:
            return widths[at_N]
        left -= int(cost_N[i])
        at_N[i] += 1


def ratios(name: str, d: int, workers: int, budget: int, draws: int) -> dict[str, list[float]]:
    """Noise of each way over that of the exact allocation, one entry a draw."""
    noise = noise_table(get_quantizer(name), d, MOST_BITS)
    cap_N = np.full(workers, len(noise) - 1)
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    for draw in range(draws):
        rng = np.random.default_rng((draw, workers))
        p_N = np.exp(-0.1 * rng.uniform(0.01, 2.0, workers))
        best = allocate_bits(p_N, noise, budget, cap_N, "dp").F
        chosen = {
            "papers": allocate_bits(p_N, noise, budget, cap_N, "waterfill").bits_N,
            "equal": equal(p_N, noise, budget),
            "selected": selected(p_N, noise, budget),
            "greedy": greedy(p_N, noise, budget),
        }
        for way, bits_N in chosen.items():
            value = F(p_N, noise, bits_N)
            found[way].append(best / value if value > 0 else np.inf)
    return found


def plot(rows: list[dict[str, Any]], budgets: list[int], path: Path) -> None:
    """One panel a quantizer: ratio (median, all draws as a band) by budget, one line a way."""
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(SETTINGS), figsize=(13, 3.6), layout="constrained", sharey=True)
    styles = {"papers": ("o", "-"), "equal": ("s", "--"), "selected": ("^", "-."), "greedy": ("D", ":")}
    for axis, (name, d) in zip(axes, SETTINGS, strict=True):
        for way, (marker, line) in styles.items():
            mine = [row for row in rows if (row["quantizer"], row["d"], row["way"]) == (name, d, way)]
            x = [row["budget"] for row in mine]
            axis.plot(x, [row["median"] for row in mine], line, marker=marker, label=way)
            axis.fill_between(x, [row["least"] for row in mine], [row["most"] for row in mine], alpha=0.15, linewidth=0)
        axis.set_title(f"{name}, d = {d:,}", fontsize=10)
        axis.set_xlabel("bits of all workers, a coordinate")
        axis.set_xticks(budgets)
        axis.set_yscale("log")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("noise / noise of the exact allocation")
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--workers", type=int, default=50)
    parser.add_argument("--budgets", default="100,150,250,300", help="packed bits of all workers together, with commas")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    budgets = [int(each) for each in options.budgets.split(",")]
    rows = []
    print(f"{'quantizer':>15} {'d':>9} {'bits':>5} " + "".join(f"{way:>22}" for way in WAYS))
    for name, d in SETTINGS:
        for budget in budgets:
            found = ratios(name, d, options.workers, budget, options.draws)
            line = f"{name:>15} {d:>9} {budget:>5} "
            for way in WAYS:
                least, median, most = (float(np.quantile(found[way], q)) for q in (0, 0.5, 1))
                spread = {"least": least, "median": median, "most": most}
                rows.append({"quantizer": name, "d": d, "budget": budget, "way": way, **spread})
                line += f"{f'{median:.3f} ({least:.3f}-{most:.3f})':>22}"
            print(line, flush=True)
    if options.json:
        machine = {"python": platform.python_version(), "numpy": np.__version__}
        document = {
            "benchmark": "allocation",
            "machine": machine,
            "workers": options.workers,
            "draws": options.draws,
            "rows": rows,
        }
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    if options.plot:
        plot(rows, budgets, options.plot)


if __name__ == "__main__":
    main()
