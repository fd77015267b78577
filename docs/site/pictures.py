"""The pictures of docs/img that are drawn by code: ``python docs/site/pictures.py`` writes them, a test compares them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from drawing import Picture  # beside this file, in no package

IMAGES = Path(__file__).parents[1] / "img"


def code() -> Picture:
    """Which worker computes which partition, and what it sends."""
    p = Picture(
        900,
        330,
        "A gradient code",
        "Four workers, eight partitions. Neighbours share a partition; every column of coefficients sums to 1; each worker "
        "sends one coded sum; the master adds what arrives with weight 1/(1-p).",
    )
    rows: list[tuple[str, list[float]]] = [
        ("worker 1", [1, 1, 0.6]),
        ("worker 2", [0, 0, 0.4, 1, 0.7]),
        ("worker 3", [0, 0, 0, 0, 0.3, 1, 0.8]),
        ("worker 4", [0, 0, 0, 0, 0, 0, 0.2, 1]),
    ]
    for j in range(8):
        p.words(128 + 56 * j, 40, f"{j + 1}", middle=True, style="bold")
    p.words(100, 18, "partitions of the data")
    for i, (name, coefficients) in enumerate(rows):
        y = 56 + 56 * i
        p.words(12, y + 28, name, style="bold")
        for j, a in enumerate(coefficients + [0.0] * (8 - len(coefficients))):
            p.box(104 + 56 * j, y, 48, 44, f"{a:g}" if a else "", kind="done" if a == 1 else "dropped" if a else "calm")
        p.arrow(f"M 560 {y + 22} H 640", kind="thick")
        p.words(566, y + 14, "4 bits", style="small")
        p.words(652, y + 27, f"weight 1/(1 - p{'₁₂₃₄'[i]})  if it arrives")
    p.words(104, 306, "A column sums to 1: with the weights, each partition counts once on average, whoever is late.")
    return p


def partial() -> Picture:
    """A row that is cut in time."""
    p = Picture(
        900,
        272,
        "A row cut in time",
        "A worker takes its six partitions in a random order. At its cut four are done, one is under way and is dropped, "
        "one is not begun. It sends 6/4 times the sum of the four.",
    )
    for at, name in ((130, "round arrives"), (640, "cut"), (800, "deadline")):
        p.arrow(f"M {at} 34 V 200", kind="dashed" if name != "round arrives" else "", tip=False)
        p.words(at, 24, name, middle=True, style="bold")
    x = 130
    for part, w, kind in ((5, 96, "done"), (2, 120, "done"), (6, 100, "done"), (1, 110, "done"), (4, 84, "dropped")):
        p.box(x, 60, w, 46, f"part {part}", kind=kind)
        x += w
    p.box(x + 10, 60, 60, 46, "part 3", kind="calm")
    p.words(12, 80, "worker 2", style="bold")
    p.words(12, 98, "6 partitions", style="small")
    p.words(634, 126, "under way: dropped", end=True, style="small")
    p.words(650, 126, "not begun", style="small")
    p.box(642, 158, 78, 34, "encode", kind="calm")
    p.arrow("M 720 175 H 796", kind="thick")
    p.words(758, 168, "link", middle=True, style="small")
    p.words(138, 160, "in an order drawn from (seed, step, row) alone:", style="small")
    p.words(138, 180, "what is done by any time is a random subset", style="small")
    p.words(130, 232, "sent:   6/4 · (a₅g₅ + a₂g₂ + a₆g₆ + a₁g₁),   on average the whole row's sum")
    p.words(130, 258, "nothing done by the cut: no message; only that chance, p, enters the weight 1/(1 - p)")
    return p


def bits() -> Picture:
    """Few bits both ways."""
    p = Picture(
        900,
        290,
        "Few bits both ways",
        "Down: the master sends the quantized difference between the parameters and the replica that all ends share. Up: a "
        "worker sends its coded gradient, quantized at random without bias.",
    )
    p.box(20, 40, 230, 190, "", kind="calm")
    p.words(135, 66, "master", middle=True, style="bold")
    p.box(40, 80, 190, 40, "parameters x (float32)")
    p.box(40, 130, 190, 40, "replica xr")
    p.box(40, 180, 190, 40, "sum of arrivals → .grad")
    p.box(650, 40, 230, 190, "", kind="calm")
    p.words(765, 66, "worker", middle=True, style="bold")
    p.box(670, 80, 190, 40, "replica xr: the same bits")
    p.box(670, 130, 190, 40, "gradients at xr")
    p.box(670, 180, 190, 40, "coded sum y")
    p.arrow("M 250 104 H 646", kind="thick")
    p.words(450, 92, "down: Q(x - xr), 4 bits a coordinate", middle=True)
    p.words(450, 126, "encoded once a step, for all workers", middle=True, style="small")
    p.arrow("M 650 200 H 254", kind="thick")
    p.words(450, 190, "up: Q(y), 4 bits on average over the workers", middle=True)
    p.words(450, 222, "rounded at random: E Q(y) = y", middle=True, style="small")
    p.words(
        20,
        264,
        "The optimizer steps on x itself. The gap x - xr is a fraction of the last step, so it vanishes as steps do.",
    )
    return p


def shift() -> Picture:
    """A shift vector at both ends."""
    p = Picture(
        900,
        300,
        "Shifted coding",
        "Master and worker keep the same vector h. The worker sends the quantized difference to it; both ends move h by "
        "what was accepted; what is late leaves h as it is.",
    )
    p.box(20, 30, 250, 150, "", kind="calm")
    p.words(145, 54, "worker i", middle=True, style="bold")
    p.box(40, 66, 210, 40, "coded gradient yᵢ")
    p.box(40, 124, 210, 40, "hᵢ, version 7")
    p.box(630, 30, 250, 150, "", kind="calm")
    p.words(755, 54, "master", middle=True, style="bold")
    p.box(650, 66, 210, 40, "ghat = H + Σ wᵢ Q(yᵢ - hᵢ)")
    p.box(650, 124, 210, 40, "hᵢ, version 7;  H = Σ hᵢ")
    p.arrow("M 270 86 H 626", kind="thick")
    p.words(448, 76, "message: Q(yᵢ - hᵢ), version 7", middle=True)
    p.arrow("M 630 146 H 274")
    p.words(448, 138, "next round: version 8 (accepted) or 7 (not)", middle=True)
    p.words(20, 218, "accepted: both ends move hᵢ by β Q(yᵢ - hᵢ), with the same bits. Late or lost: neither does.")
    p.words(20, 244, "As training settles, yᵢ - hᵢ goes to zero, and with it the noise of rounding and of absences.")
    p.words(
        20, 270, "This is DIANA (Mishchenko et al. 2019) with partial arrival; the code and the weights come on top."
    )
    return p


def worker_states() -> Picture:
    """The worker machine."""
    p = Picture(
        960,
        610,
        "States of the worker machine",
        "Not linked, idle, computing, encoding, sending; a cut or a newer step ends a round early; a lost link leads back "
        "to not linked, release or refusal to the end.",
    )
    p.box(20, 160, 130, 60, "not linked\n_linked false", bold=True)
    p.box(300, 160, 150, 60, "idle\nno work", bold=True, kind="calm")
    p.box(560, 30, 150, 60, "computing\none partition", bold=True, kind="calm")
    p.box(790, 160, 150, 60, "encoding\na row", bold=True, kind="calm")
    p.box(560, 290, 150, 60, "sending\na message", bold=True, kind="calm")
    p.box(20, 290, 130, 60, "ended\nExit", bold=True)
    arrows = [
        ("M 150 176 H 296", 223, 168, ""),
        ("M 300 204 H 154", 223, 220, "dashed"),
        ("M 360 158 C 370 90, 450 56, 556 56", 420, 72, ""),
        ("M 612 28 C 600 -6, 668 -6, 658 26", 682, 18, ""),
        ("M 712 60 C 800 60, 865 90, 865 156", 830, 74, ""),
        ("M 590 92 C 580 150, 520 178, 454 180", 560, 136, "dashed"),
        ("M 788 190 C 700 200, 560 200, 454 196", 730, 186, "dashed"),
        ("M 865 222 C 865 290, 800 320, 714 320", 826, 322, ""),
        ("M 635 288 V 94", 646, 240, ""),
        ("M 558 320 C 450 320, 380 290, 370 224", 428, 326, ""),
        ("M 85 222 V 286", 98, 260, "dashed"),
    ]
    for number, (path, x, y, kind) in enumerate(arrows, 1):
        p.arrow(path, kind=kind)
        p.words(x, y, str(number), middle=True, style="bold")
    said = [
        "Linked: SendCredit(fresh)",
        "LinkLost, in any state: Abort, Zero each h, Connect after a wait that doubles",
        "RoundIn: Commit, Discard or Zero each h; Load, Prefetch, Compute; Wake at the cut",
        "PartDone: Compute the next partition of the row",
        "PartDone of the last one, or the cut with one or more done: Encode",
        "newer step: stale; cut with none done: cut; UserError: SendFailed, failed; Astray: astray. All by SendCredit",
        "newer step: Abort, SendCredit(stale)",
        "EncodedRow: Send",
        "SentRow with rows left: Compute the next row",
        "SentRow of the last row: SendCredit(sent), or (cut) if rows were left out",
        "Refused: Exit 2. In any state: Released: Exit 0; Sigterm: SendLeaving, Exit 0 at the release or after a wait",
    ]
    for number, line in enumerate(said, 1):
        p.words(44, 376 + 20.5 * number, str(number), end=True, style="bold small")
        p.words(56, 376 + 20.5 * number, line, style="small")
    return p


def master_states() -> Picture:
    """The master machine: the step, and each worker's link."""
    p = Picture(
        1040,
        470,
        "States of the master machine",
        "A step is closed or open. A worker's link is absent, busy, ready or has a round out; independent of the step.",
    )
    p.words(20, 24, "the step", style="bold")
    p.box(20, 50, 170, 60, "closed\nbetween two steps", bold=True, kind="calm")
    p.box(730, 50, 170, 60, "open\ncounting arrivals", bold=True, kind="calm")
    p.arrow("M 190 66 H 726")
    p.words(458, 58, "OpenStep: deadline, p, weights are fixed; Announce, SendRound, Wake", middle=True, style="small")
    p.arrow("M 730 96 H 194")
    p.words(
        458, 114, "CloseStep: deadline (Tick, or any later event), complete, count, stop", middle=True, style="small"
    )
    p.arrow("M 902 64 C 955 44, 955 116, 904 98")
    p.words(950, 70, "Arrived:", style="small")
    p.words(950, 86, "Accumulate", style="small")
    p.words(950, 102, "or Keep", style="small")
    p.arrow("M 20 150 H 1020", kind="dashed", tip=False)
    p.words(20, 180, "a worker's link (each by itself)", style="bold")
    p.box(30, 280, 130, 60, "absent\nno link", bold=True)
    p.box(330, 210, 150, 60, "joined\nno credit yet", bold=True, kind="calm")
    p.box(640, 210, 170, 60, "ready\ncredit is in", bold=True, kind="calm")
    p.box(640, 360, 170, 60, "round out\nowes rows", bold=True, kind="calm")
    p.arrow("M 130 278 C 150 240, 240 232, 326 236")
    p.words(150, 220, "Joined: Admit, Replan", style="small")
    p.arrow("M 480 240 H 636")
    p.words(558, 232, "Credit(fresh)", middle=True, style="small")
    p.arrow("M 700 272 V 356")
    p.words(692, 300, "a step opens, or is open:", end=True, style="small")
    p.words(692, 316, "SendRound", end=True, style="small")
    p.arrow("M 760 358 V 274")
    p.words(770, 300, "Credit: sent, stale, cut,", style="small")
    p.words(770, 316, "failed, astray (rows not", style="small")
    p.words(770, 332, "sent: Drop, written off)", style="small")
    p.arrow("M 812 384 C 890 366, 890 430, 814 404")
    p.words(880, 388, "Arrived: a row", style="small")
    p.words(880, 404, "less is owed", style="small")
    p.arrow("M 636 404 C 400 430, 160 420, 110 344", kind="dashed")
    p.words(190, 366, "from any: Lost, Leaving, a newer link, a broken protocol:", style="small")
    p.words(190, 382, "TakeOut of its shifts, rows of the open step written off, Replan", style="small")
    p.words(
        20,
        456,
        "Silent marks a link in any state: that worker is not ready, and its p rises. Refuse leaves a link absent.",
    )
    return p


def round_by_messages() -> Picture:
    """One round, message by message, of a worker in time and a slow one."""
    p = Picture(
        960,
        606,
        "One round, message by message",
        "Both workers give credit; the master opens step t and sends a round to each; the fast worker's message counts; the "
        "slow one hears of step t+1, drops its work and gives credit again.",
    )
    lanes = {"script": 70, "master": 300, "worker 1, in time": 580, "worker 2, slow": 850}
    for name, x in lanes.items():
        p.box(x - 66, 10, 132, 34, name, kind="calm")
        p.arrow(f"M {x} 44 V 600", kind="dashed", tip=False)
    script, master, one, two = lanes.values()

    def message(y: float, start: float, end: float, words: str, kind: str = "") -> None:
        gap = 4 if end > start else -4
        p.arrow(f"M {start} {y} H {end - gap}", kind=kind)
        p.words(min(start, end) + 12, y - 6, words, style="small")

    def note(y: float, x: float, words: str) -> None:
        lines = words.split("\n")
        p.box(x - 116, y, 232, 16 + 17 * len(lines), words, kind="page")

    message(72, one, master, "Credit(-1, fresh)")
    message(96, two, master, "Credit(-1, fresh)")
    message(124, script, master, "OpenStep(t, plan, terms)")
    note(134, master, "deadline, p and weights\nof step t are fixed here")
    message(210, master, one, "Round(t, shift versions) + parameters", "thick")
    message(234, master, two, "Round(t) + parameters", "thick")
    note(246, one, "per partition: add coefficient\ntimes gradient; less h; quantize")
    message(322, one, master, "message (Head t, row 0) + payload", "thick")
    note(332, master, "in time: Accumulate\nweight · m; h += β · m")
    message(408, one, master, "Credit(t, sent)")
    note(394, script + 46, "deadline: CloseStep(t)")
    message(450, master, script, "decoded gradient")
    message(474, script, master, "OpenStep(t+1)")
    message(498, master, one, "Round(t+1): counted, so version + 1", "thick")
    message(518, master, two, "Announce(t+1)", "dashed")
    note(528, two - 8, "t is over: drop it")
    message(550, two - 116, master, "Credit(t, stale)")
    message(586, master, two, "Round(t+1) + parameters", "thick")
    return p


PICTURES: dict[str, Callable[[], Picture]] = {
    "code": code,
    "partial-row": partial,
    "bits": bits,
    "shift": shift,
    "worker-states": worker_states,
    "master-states": master_states,
    "round-messages": round_by_messages,
}


def main() -> None:
    """Write all of them."""
    for name, draw in PICTURES.items():
        (IMAGES / f"{name}.svg").write_text(draw().svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
