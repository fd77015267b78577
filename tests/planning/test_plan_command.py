"""`gcdist plan`: exact keys, certified figures, files, comparison, and one clear line for each mistake."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gcdist.cli import main
from gcdist.coding import code_names

KEYS = {
    "scheme",
    "solver",
    "n",
    "k",
    "F",
    "F_upper",
    "gap",
    "noise_ratio",
    "redundancy",
    "nonzeros",
    "bits_used",
    "notices",
    "workers",
}
LAW = ("--noise", "power:D=17.9")
FREE = ("--load-most", "inf")


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = 0
    try:
        main(["plan", *words])
    except SystemExit as stop:
        code = int(stop.code or 0)
    seen = capsys.readouterr()
    return code, seen.out, seen.err


def papers_p(path: Path, seed: int) -> Path:
    p = np.exp(-np.random.default_rng(seed).uniform(0.01, 2.0, 50) * 0.1)
    path.write_text("\n".join(map(str, p.tolist())) + "\n", encoding="utf-8")
    return path


def test_json_has_exactly_the_keys(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = papers_p(tmp_path / "p.txt", 0)
    out = tmp_path / "plan.json"
    for solver in ("dp", "envelope", "waterfill"):
        words = (
            "--p-file",
            str(file),
            "--bits-total",
            "250",
            *LAW,
            "--solver",
            solver,
            *FREE,
            "--json",
            "--out",
            str(out),
        )
        code, text, _ = run(capsys, *words)
        figures = json.loads(text)
        assert code == 0
        assert set(figures) == KEYS
        assert set(figures["workers"][0]) == {"worker", "p", "bits", "noise", "row_sum", "load"}
        assert figures["solver"] == solver
        assert figures["gap"] == pytest.approx(figures["F_upper"] - figures["F"], abs=1e-12)
        assert figures["noise_ratio"] == pytest.approx(1 / figures["F"])
        assert figures["bits_used"] == sum(w["bits"] for w in figures["workers"]) <= 250
        gain = sum((1 - w["p"]) / (w["p"] + 17.9 / (2 ** w["bits"] - 1) ** 2) for w in figures["workers"] if w["bits"])
        assert figures["F"] == pytest.approx(gain)
        assert json.loads(out.read_text(encoding="utf-8"))["rows"][0]["worker"] == 1


def test_table_says_how_bits_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    code, text, _ = run(capsys, "--p", "0.1,0.3,0.05", "--partitions", "8", "--bits-total", "12", *LAW, *FREE)
    assert code == 0
    assert "magnitude bits" in text
    assert "certified gap 0, bits by dp" in text
    assert "best decoding" in text
    words = ("--p", "0.1,0.3", "--bits-total", "8", "--quantizer", "bucket", "--dim", "100000")
    code, text, _ = run(capsys, *words)
    assert "packed bits a coordinate, sign included, of quantizer bucket at 100000" in text


def test_the_load_cap_is_that_of_a_run_and_is_relaxed_before_data_is_lost(capsys: pytest.CaptureFixture[str]) -> None:
    p = ",".join(["0.05"] * 7 + ["0.99"])
    words = ("--p", p, "--partitions", "16", "--bits-total", "64", "--noise", "power:D=1", "--json")
    _, text, _ = run(capsys, *words)
    figures = json.loads(text)
    assert max(worker["load"] for worker in figures["workers"]) <= 3  # 1.25 times 2, one more than it at least
    assert figures["workers"][7]["row_sum"] < 0.01
    assert figures["noise_ratio"] < 0.02
    assert figures["notices"] == []
    # five of six workers hardly arrive: within a cap of 3, data would be theirs alone
    lost = ("--p", "0.02,0.99,0.99,0.99,0.99,0.99", "--partitions", "12", *words[4:])
    _, text, _ = run(capsys, *lost)
    figures = json.loads(text)
    assert figures["workers"][0]["load"] == 12
    assert figures["noise_ratio"] < 0.2
    assert len(figures["notices"]) == 1
    assert (
        "a worker may compute 12 partitions, above the cap of 3 (code.load_most 1.25): within 3 the planned noise"
        in (figures["notices"][0])
    )
    code, text, _ = run(capsys, "--p", "0.9,0.9", "--bits-total", "8", "--noise", "power:D=1")
    assert code == 0
    assert "note: planned noise of stragglers" in text
    assert "partitions 0, 1 of 2 are counted in" in text


def test_of_many_workers_the_first_and_last_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    p = ",".join(["0.1"] * 60)
    code, out, _ = run(capsys, "--p", p, "--partitions", "60", "--bits-total", "240", *LAW)
    assert code == 0
    shown = [line.split("│")[1].strip() for line in out.splitlines() if line.startswith("│")]
    assert shown == [*map(str, range(1, 21)), "...", *map(str, range(41, 61))]
    assert "20 of 60 workers are not shown" in out


def test_compare_shows_every_scheme(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = papers_p(tmp_path / "p.txt", 1)
    code, text, _ = run(capsys, "--p-file", str(file), "--bits-total", "250", *LAW, "--compare", "all", "--json")
    lines = {line["scheme"]: line for line in json.loads(text)}
    assert code == 0
    assert set(lines) == set(code_names()) - {"auto"}  # with p given it is `joint`
    assert lines["self-normalised"]["noise_ratio"] < lines["osgc"]["noise_ratio"]
    assert lines["joint"]["noise_ratio"] < lines["osgc"]["noise_ratio"] < lines["sgc"]["noise_ratio"]
    assert lines["ignore"]["mean"] < 0.5
    order = list(lines)
    waits, biased = [name for name in order if lines[name]["rank"] == 1], [n for n in order if lines[n]["rank"] == 2]
    assert {"sync", "cyclic"} <= set(waits)
    assert {"ignore", "ignore-rescaled", "erasurehead"} <= set(biased)
    assert order.index("joint") < min(map(order.index, waits)) < max(map(order.index, waits)) < order.index(biased[0])
    code, text, _ = run(capsys, "--p-file", str(file), "--bits-total", "250", *LAW, "--compare", "all", "--zeta2", "3")
    assert code == 0
    assert "memory: stale" in text
    assert 'the default, "auto", has the plans of joint' in text


def test_delays_and_deadline(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    model = tmp_path / "model.toml"
    model.write_text(
        'workers = 8\nmodel = "shifted-exponential"\nshift = 0.2\nmean = 0.2\nscale_with_load = true\n',
        encoding="utf-8",
    )
    words = ("--delays", str(model), "--deadline", "2", "--partitions", "32", "--bits-total", "32", *LAW, "--json")
    code, text, _ = run(capsys, *words)
    figures = json.loads(text)
    assert code == 0
    assert figures["solver"] == "loads"
    for worker in figures["workers"]:
        if worker["load"]:
            assert worker["p"] == pytest.approx(np.exp(-(2 / worker["load"] - 0.2) / 0.2))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--p", "", "--bits-total", "3", *LAW), "--p is empty"),
        (("--p", "0.1,1.2", "--bits-total", "3", *LAW), "entry 2 is '1.2': it must be a number from 0 to 1"),
        (("--p", "0.1,-0.2", "--bits-total", "3", *LAW), "entry 2 is '-0.2'"),
        (("--p", "nan", "--bits-total", "3", *LAW), "entry 1 is 'nan'"),
        (("--p", "a", "--bits-total", "3", *LAW), "entry 1 is 'a'"),
        (("--p", "0.1", "--bits-total", "-1", *LAW), "--bits-total is -1"),
        (("--p", "0.1", *LAW), "--bits-total is missing"),
        (("--p", "0.1", "--bits-total", "3", "--partitions", "0", *LAW), "--partitions is 0"),
        (("--p", "0.1", "--bits-total", "3"), "exactly one of --noise and --quantizer"),
        (("--p", "0.1", "--bits-total", "3", "--noise", "power"), "power:D=17.9"),
        (("--p", "0.1", "--bits-total", "3", "--noise", "power:D=-1"), "entry 1 is '-1'"),
        (("--p", "0.1", "--bits-total", "3", "--quantizer", "bukcet", "--dim", "9"), "did you mean 'bucket'"),
        (("--p", "0.1", "--bits-total", "3", "--quantizer", "bucket"), "needs --dim"),
        (("--p", "0.1", "--bits-total", "3", *LAW, "--scheme", "jiont"), "did you mean 'joint'"),
        (("--p", "0.1", "--bits-total", "3", *LAW, "--solver", "dpp"), "did you mean 'dp'"),
        (("--p", "0.1", "--bits-total", "3", *LAW, "--allocation", "chian"), "did you mean 'chain'"),
        (
            ("--p", "0.1,0.2", *LAW),
            r"--bits-total is missing: it must be 0 or more; 4 bits for each of the 2 workers is 8",
        ),
        (("--p", "0.1", "--bits-total", "3", *LAW, "--compare", "some"), "allowed are all"),
        (("--p", "1,1", "--bits-total", "3", *LAW), "none of the 2 workers is usable"),
        (("--p", "0.1", "--bits-total", "0", *LAW), "pays for no message"),
        (("--p-file", "nowhere.txt", "--bits-total", "3", *LAW), "nowhere.txt"),
        (("--bits-total", "3", *LAW), "exactly one of --p, --p-file and --delays"),
        (("--p", "0.1", "--bits-total", "3", *LAW, "--bits-max", "0"), "--bits-max is 0"),
        (("--p", "0.1", "--bits-total", "3", *LAW, "--load-most", "0.5"), "--load-most is 0.5: it must be 1 or more"),
        (("--p", "0.1,0.2,0.4", "--bits-total", "9", "--noise", "power:D=1", "--allocation", "star"), "allow_negative"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], says: str
) -> None:
    code, out, err = run(capsys, *words)
    assert code == 2
    assert out == ""
    assert says in err
    assert len(err.strip().splitlines()) == 1


def test_delays_have_the_choice_of_the_automatic_scheme_by_its_own_objective(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    law = tmp_path / "law.toml"
    law.write_text(
        'workers = 4\nmodel = "shifted-exponential"\nshift = 0.01\nmean = [0.002, 0.01, 0.02, 0.1]\nscale_with_load = true\n'
    )
    words = ("--delays", str(law), "--deadline", "0.1", "--partitions", "32", "--bits-total", "16", *LAW)
    code, text, _ = run(capsys, *words, "--json")
    auto = json.loads(text)["auto"]
    assert code == 0
    assert sum(auto["loads"]) == 32
    assert auto["loads"][0] > auto["loads"][3]
    assert auto["deadline"] is not None
    assert auto["cost"] == pytest.approx(auto["seconds"] * (1 + auto["noise"]))
    assert auto["cost"] < auto["waiting"]
    assert "auto: rows are cut after" in run(capsys, *words)[1]
