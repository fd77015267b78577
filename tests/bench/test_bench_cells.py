import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from gcdist.bench.cells import Cell, Outcome, read_outcome, write_json, write_outcome
from gcdist.bench.engine import Bench, cells_of, open_folder
from gcdist.bench.loop import simulated
from gcdist.bench.machine import Machine, measure
from gcdist.bench.pace import pace_line, pace_lines
from gcdist.bench.scenarios import BUILT_IN, make_scenario
from gcdist.bench.schemes import SCHEMES, BenchScheme, register
from gcdist.bench.tables import entries, ratio_text, remarks, samples_text, speed_ups, time_text, verdict
from gcdist.bench.tuning import RACE, Choice, cost_of, tune
from gcdist.bench.validate import compare, pair_rows, read_pairs, summary, validation_lines
from gcdist.config import ConfigError
from gcdist.straggler import make_delays
from gcdist.types import RunHaltedError


def cell(scheme: str = "sync", delays: str = "exponential", **more: object) -> Cell:
    base = Cell("digits", delays, scheme, 4, 0, 0.8, SCHEMES[scheme].deadline, 0.05, 0.3, 20.0)
    return replace(base, **more)  # type: ignore[arg-type]


def outcome(seconds: float | None, loss: float = 0.05) -> Outcome:
    made = Outcome(
        "reached" if seconds is not None else "budget", steps=10, bytes_up=1_000_000, arrived=4.0, cpu_seconds=0.001
    )
    made.seconds, made.choice_seconds = float("nan") if seconds is None else seconds, 0.01
    made.curve = [(0, 0.0, 2.3, 0.1, 0), (10, seconds or 20.0, loss, 0.9, 1_000_000)]
    return made


@pytest.mark.parametrize("name", [name for name in SCHEMES if SCHEMES[name].engine == "gcdist"])
def test_every_scheme_runs_in_the_simulator(name: str) -> None:
    deadline = SCHEMES[name].deadline if SCHEMES[name].tunes == "step" else 0.12
    made = simulated(cell(name, budget=1.0, deadline=deadline))
    assert made.status in ("budget", "reached"), made.why
    assert made.bytes_up > 0
    assert np.all(np.diff(made.ends) > 0)


@pytest.mark.parametrize("name", list(BUILT_IN))
def test_every_scenario_makes_settings(name: str) -> None:
    scenario = make_scenario(name, 8, 8, 0.05)
    config = cell(delays=name).config()
    assert config.inject.model == scenario.inject.get("model", "none")
    delays = make_delays(config.inject.model, 4, **config.inject.params())
    if scenario.inject:
        # nobody who computes an even share is faster than the pace, but for Pareto's scale, which is it
        assert min(delays.seconds(w, t, 8.0, 0) for w in range(4) for t in range(50)) >= 0.05 * (1 - 1e-9)


def test_delays_can_be_spent_computing_instead_of_on_the_message() -> None:
    scenario = make_scenario("spells:compute", 8, 8, 0.05)
    assert scenario.name == "spells-compute"
    assert scenario.inject == {**make_scenario("spells", 8, 8, 0.05).inject, "where": "compute"}
    assert cell(delays="spells:compute").config().inject.computing
    made = simulated(cell("joint-auto", "spells:compute", budget=1.0))
    assert made.status in ("budget", "reached"), made.why
    with pytest.raises(ConfigError, match="'none' has no delays that could be spent computing"):
        make_scenario("none:compute", 8, 8, 0.05)


def test_a_trace_is_scaled_to_the_pace_and_bad_ones_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "slow.csv"
    path.write_text("round,a,b\n0,10,20\n1,10,40\n")
    scenario = make_scenario(f"trace:{path}", 2, 4, 0.1)
    assert scenario.name == "slow"
    delays = make_delays("trace", 2, **{k: v for k, v in scenario.inject.items() if k != "model"})
    assert delays.seconds(0, 0, 4.0, 0) == pytest.approx(0.1 * 10 / 15)
    with pytest.raises(ConfigError, match="has 2 workers; 3 are needed"):
        make_scenario(f"trace:{path}", 3, 4, 0.1)
    with pytest.raises(ConfigError, match="delays: found 'nothing'; allowed: none, exponential"):
        make_scenario("nothing", 3, 4, 0.1)


def test_outcomes_survive_a_file_and_broken_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "seed0.json"
    write_outcome(path, cell(), outcome(3.0))
    found_cell, found = read_outcome(path)
    assert found_cell == cell()
    assert found == outcome(3.0)
    path.write_text("{")
    with pytest.raises(ConfigError, match="not a result of this benchmark"):
        read_outcome(path)


def test_a_run_ends_at_the_target_the_budget_or_when_it_explodes() -> None:
    def looks(*losses: float) -> Outcome:
        made = Outcome()
        for step, loss in enumerate(losses):
            if made.look(step, float(step), {"loss": loss}, 0.1, 5.0):
                break
        return made

    assert looks(2.0, 0.09, 0.2, 0.09, 0.08, 0.01).status == "reached"
    assert looks(2.0, 0.09, 0.2, 0.09, 0.08, 0.01).seconds == 3.0
    assert looks(2.0, 300.0).status == "diverged"
    assert looks(2.0, float("nan")).status == "diverged"
    assert looks(*[1.0] * 10).status == "budget"


def test_tuning_finds_the_least_cost_and_never_an_edge() -> None:
    def run(made: Cell) -> Outcome:
        assert isinstance(made.deadline, float)
        seconds = 5.0 + np.log(made.lr / 3.2) ** 2 + np.log(made.deadline / 0.3) ** 2
        return outcome(float(seconds))

    choice = tune(cell("joint"), [7, 8], 0.1, run)
    assert choice.reached
    lrs = sorted({lr for lr, _, _, _ in choice.tried})
    deadlines = sorted({d for _, d, _, _ in choice.tried if isinstance(d, float)})
    assert lrs[0] < choice.lr < lrs[-1]
    assert deadlines[0] < float(choice.deadline) < deadlines[-1]
    assert abs(np.log2(choice.lr / 3.2)) < 0.51
    with pytest.raises(RunHaltedError, match="on the edge"):
        tune(cell("sync"), [7], 0.1, lambda made: outcome(1 / made.lr))


def test_tuning_ends_runs_that_cannot_be_the_best_any_more_and_chooses_the_same() -> None:
    budgets = []

    def run(made: Cell) -> Outcome:
        budgets.append(made.budget)
        seconds = 3.0 + np.log(made.lr / 0.1) ** 2
        return outcome(float(seconds) if seconds <= made.budget else None)

    choice = tune(cell("sync"), [7, 8], 0.8, run)
    assert choice.lr == 0.1
    assert budgets[:2] == [20.0] * 2
    assert budgets[-1] == pytest.approx(RACE * choice.cost)
    assert choice.cost == pytest.approx(3.0)
    assert len(budgets) < 2 * len(choice.tried)  # the second seed is not asked where the first one was too slow


@pytest.mark.parametrize(("best", "scheme"), [(2, "joint"), (4, "sync"), (8, "memory"), (16, "partial")])
def test_the_samples_of_a_step_are_tuned_with_the_rest(best: int, scheme: str) -> None:
    def run(made: Cell) -> Outcome:
        lr, deadline = 0.8 * (made.even_share / 8) ** 0.5, 0.1 * made.even_share / 8
        off = np.log2(made.even_share / best) ** 2 + np.log2(made.lr / lr) ** 2
        if made.what.tunes == "deadline":
            off += np.log(float(made.deadline) / deadline) ** 2
        seconds = float(4.0 + off)
        return outcome(seconds if seconds <= made.budget else None)

    choice = tune(cell(scheme), [7, 8], 0.8, run, (1, 2, 4, 8, 16, 32))
    assert choice.share == best
    assert choice.cost < 4.3
    assert Choice.read(json.loads(json.dumps(choice.as_dict()))) == choice


@pytest.mark.parametrize(("half", "best"), [(4.3, 2), (5.0, 8)])
def test_samples_that_are_hardly_slower_do_not_end_the_search(half: float, best: int) -> None:
    seconds = {8: 4.0, 4: half, 2: 3.0, 1: 4.0, 16: 5.0}

    def run(made: Cell) -> Outcome:
        off = np.log2(made.lr / (0.8 * (made.even_share / 8) ** 0.5)) ** 2
        return outcome(seconds[made.even_share] + float(off))

    assert tune(cell("sync"), [7], 0.8, run, (1, 2, 4, 8, 16)).share == best


def test_half_the_samples_take_half_the_time() -> None:
    whole, half = cell("sync", budget=3.0), cell("sync", budget=3.0, share=4)
    assert half.config().code.partitions == 16
    taken = [np.mean(simulated(made).rounds) for made in (whole, half)]
    assert taken[1] == pytest.approx(taken[0] / 2, rel=0.3)


def test_tuning_looks_for_a_step_size_that_does_not_diverge() -> None:
    choice = tune(cell("sync"), [7], 0.8, lambda made: Outcome("diverged") if made.lr > 0.06 else outcome(1 / made.lr))
    assert choice.lr == 0.05
    hopeless = tune(cell("frc", delays="dead"), [7], 0.8, lambda made: Outcome("stopped"))
    assert not hopeless.reached
    assert hopeless.cost == float("inf")


def test_a_step_size_that_is_too_large_is_seen() -> None:
    assert simulated(cell("sync", lr=1e6)).status == "diverged"


def test_a_run_without_the_target_costs_more_than_its_budget() -> None:
    made = cell()
    assert cost_of([outcome(3.0), outcome(5.0)], made) == 4.0
    near, far = cost_of([outcome(None, 0.4)], made), cost_of([outcome(None, 2.0)], made)
    assert 20.0 < near < far
    assert cost_of([Outcome("diverged")], made) == float("inf")


def test_tables_say_who_is_faster_and_who_never_came(tmp_path: Path) -> None:
    results = [
        *((cell("sync", seed=s), outcome(8.0 + s)) for s in range(3)),
        *((cell("joint", seed=s), outcome((8.0 + s) / 2)) for s in range(3)),
        *((cell("ignore", seed=s), outcome(None)) for s in range(3)),
    ]
    found = {entry.scheme: entry for entry in entries(results)}
    ratios = speed_ups(results, "sync")
    assert ratio_text(found["joint"], ratios) == "2.00 (2.00-2.00)"
    assert time_text(found["sync"]) == "9.0 (8.0-10.0)"
    assert time_text(found["ignore"]) == "> 20"
    assert ratio_text(found["ignore"], ratios) == "-"
    text = remarks(results)
    assert len(text) == 1
    assert "the fastest code, joint, is faster (2.00 times); the target was not always reached by ignore" in text[0]
    assert verdict(0.9) == "slower"
    results += [(cell("partial", seed=s), outcome((8.0 + s) / 3)) for s in range(3)]
    assert "cut rows (partial) against the best of all others (joint): 1.50 times" in remarks(results)[0]
    assert samples_text(found["sync"]) == "16"
    exact = entries([(cell("sync", problem="logistic"), outcome(1.0))])[0]
    assert samples_text(exact) == "all"


def test_the_order_is_interleaved_and_the_same_every_time() -> None:
    bench = Bench("digits", ("sync", "joint", "osgc"), ("none", "exponential"), seeds=2)
    order = list(bench.order())
    assert order == list(bench.order())
    assert len(set(order)) == 12
    assert [seed for seed, _, _ in order] == [0] * 6 + [1] * 6
    choices = {(d, s): Choice(0.5, 0.2, 4, 1.0, True) for d in bench.delays for s in bench.schemes}
    cells = cells_of(bench, choices)
    assert {c.deadline for c in cells if c.scheme == "sync"} == {"wait"}
    assert {c.deadline for c in cells if c.scheme == "joint"} == {0.2}
    assert {c.even_share for c in cells} == {4}


def test_a_folder_keeps_to_one_benchmark(tmp_path: Path) -> None:
    bench = Bench("digits", ("sync",), ("none",))
    open_folder(tmp_path, bench)
    open_folder(tmp_path, replace(bench, schemes=("sync", "joint"), seeds=5))
    with pytest.raises(ConfigError, match="holds results with samples = True, not False"):
        open_folder(tmp_path, replace(bench, samples=False))
    with pytest.raises(ConfigError, match="holds results with workers = 8, not 4"):
        open_folder(tmp_path, replace(bench, workers=4))
    assert json.loads((tmp_path / "bench.json").read_text())["pace"] == 0.05


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"schemes": ("nix",)}, "schemes: found 'nix'"),
        ({"delays": ("nix",)}, "delays: found 'nix'"),
        ({"seeds": 0}, "seeds: found 0"),
        ({"budget": float("inf")}, "budget: found inf"),
        ({"problem": "nix"}, "problem: found 'nix'"),
    ],
)
def test_mistakes_are_one_line(change: dict[str, object], line: str) -> None:
    with pytest.raises(ConfigError, match=line) as found:
        replace(Bench("digits", ("sync",), ("none",)), **change).check()  # type: ignore[arg-type]
    assert len(str(found.value).splitlines()) == 1


def test_kinds_of_schemes_are_those_of_their_codes() -> None:
    kinds = {name: scheme.kind for name, scheme in SCHEMES.items()}
    assert {name for name in kinds if kinds[name] == "waits"} == {
        *("ddp", "ddp-bf16", "ddp-powersgd", "torchft", "hivemind", "sync", "sync-4bit", "frc", "cyclic"),
    }
    assert {"osgc", "joint-auto", "shifted", "sgc", "partial"} < {name for name in kinds if kinds[name] == "coded"}
    assert {"ignore", "memory", "erasurehead"} < {name for name in kinds if kinds[name] == "biased"}
    cut = {"partial", "partial-memory", "joint-auto", "auto"}
    assert {name for name, scheme in SCHEMES.items() if scheme.cuts} == cut


def test_a_later_scheme_joins_by_one_line() -> None:
    try:
        register(BenchScheme("mine", "a scheme of mine", code={"scheme": "osgc", "allocation": "full"}))
        assert simulated(cell("mine", budget=0.5, deadline=0.12)).status == "budget"
        with pytest.raises(ValueError, match="'mine' is there already"):
            register(BenchScheme("mine", "again"))
    finally:
        del SCHEMES["mine"]


def test_the_comparison_takes_as_many_steps_as_both_made(tmp_path: Path) -> None:
    real, predicted = outcome(3.0), outcome(3.0)
    real.ends, predicted.ends = [0.1 * i for i in range(1, 21)], [0.11 * i for i in range(1, 31)]
    runs = [(cell("sync"), real), (cell("ddp"), real), (cell("joint"), outcome(1.0))]
    pairs = compare(runs, lambda missing: [predicted for _ in missing])
    assert [(p.scheme, p.steps) for p in pairs] == [("sync", 20)]
    assert pairs[0].error == pytest.approx(0.1)
    assert "median error 10.0%, worst 10.0%; 1 more than 10% off. Time to the target: 0.0%, worst 0.0%." in summary(
        pairs
    )
    assert "No run" in summary([])
    assert validation_lines(pairs, ["scheme"])[2:] == ["| `sync` | 1 | - | 2.00 | 2.20 | 10.0% | 10.0% | 0.0% |"]
    write_json(tmp_path / "pairs.json", pair_rows([*pairs, replace(pairs[0], predicted_target=float("nan"))]))
    again = read_pairs(tmp_path / "pairs.json")
    assert again[0] == pairs[0]
    assert compare(runs, lambda cells: [outcome(9.0) for _ in cells], again[:1]) == pairs  # known: not predicted
    runs[0] = cell("sync"), replace(real, ends=[0.2 * i for i in range(1, 21)])
    assert compare(runs, lambda cells: [predicted for _ in cells], again[:1])[0].real == pytest.approx(4.0)
    assert np.isnan(again[1].target_error)


SLOW = Machine(0.0, 0.0005, 0.0, 0.006, 2, 0.0005, 0.001, 0.002, 0.003, 0.02, 0.0005, 0.004, 8)


def test_the_machine_is_measured_from_short_runs() -> None:
    """The simulator stands for the real machine: its constants come out."""
    known = SLOW
    found = measure(cell(), lambda run: _short(run, known), _short, known.cores)
    assert found.cpu_seconds == pytest.approx(known.cpu_seconds)
    assert found.latency == 0.0
    for name, within in {
        "compute_seconds": 0.1,
        "link_seconds": 0.1,
        "encode_seconds": 0.2,
        "master_seconds": 0.1,
        "single_master_seconds": 0.05,
        "coded_seconds": 0.1,
        "choice_seconds": 0.2,
    }.items():
        assert getattr(found, name) == pytest.approx(getattr(known, name), rel=within), name


def test_a_machine_scales_with_the_processor_clock() -> None:
    machine = Machine(0.004, 0.002, 0.001, 0.006, 2, 0.001)
    assert machine.at(0.0015) == Machine(1.5 * 0.004, 1.5 * 0.002, 1.5 * 0.001, 1.5 * 0.006, 2, 0.0015)
    assert machine.at(float("nan")) is machine
    seconds = {"latency": 0.004, "compute_seconds": 0.002, "send_seconds": 0.001, "master_seconds": 0.006}
    new = {"link_seconds": 0.0, "encode_seconds": 0.0, "choice_seconds": 0.0}
    assert machine.section(cell()) == {**seconds, **new, "cores": 2}  # a measurement of an older version


def test_a_worker_with_one_partition_a_step_is_no_slower_machine() -> None:
    """Its partition takes more of a processor, as caches are cold; nothing else takes longer by that."""
    machine = replace(SLOW, single_cpu_seconds=0.0008)
    assert machine.slower(8, 0.0005) == machine.slower(1, 0.0008) == pytest.approx(1.0)
    assert 1.0 < machine.slower(8, 0.00056) / machine.slower(2, 0.00056) < 1.3
    assert machine.at(0.0008, 1).link_seconds == pytest.approx(machine.link_seconds)
    few, many = (machine.section(replace(cell(), share=share))["master_seconds"] for share in (1, 8))
    assert (few, many) == (0.004, 0.006)


def test_a_scheme_takes_the_constants_of_its_messages_and_plans() -> None:
    plain = SLOW.section(replace(cell(), scheme="sync"))
    coded = SLOW.section(replace(cell(), scheme="osgc"))
    four_bits = SLOW.section(replace(cell(), scheme="partial"))
    assert plain["encode_seconds"] == coded["encode_seconds"] == 0.0 < four_bits["encode_seconds"]
    assert plain["master_seconds"] + 0.003 == coded["master_seconds"] == four_bits["master_seconds"]


def _short(run: Cell, machine: Machine) -> Outcome:
    return simulated(replace(run, budget=1.5), machine)


def test_a_pace_at_which_the_machine_cannot_compute_is_told(tmp_path: Path) -> None:
    machine = Machine(0.001, 0.0007, 0.0005, 0.004, 2, 0.0007)
    assert "49% of the pace of 0.05 s" in pace_line("digits", machine, 8, 0.05)
    line = pace_line("digits", machine, 8, 0.025)
    assert line.endswith(
        "98% of the pace of 0.025 s: above 50%, so that the machine is measured, too; --pace 0.05 would do"
    )
    assert pace_lines(tmp_path) == []
    open_folder(tmp_path, Bench("digits", ("sync",), ("none",)))
    write_json(tmp_path / "machine" / "digits.json", asdict(machine))
    assert pace_lines(tmp_path) == [pace_line("digits", machine, 8, 0.05)]


def test_a_machine_that_cannot_be_measured() -> None:
    with pytest.raises(ConfigError, match="cannot be told how fast this machine is: 10 ranks gone"):
        measure(cell(), lambda run: Outcome("failed", why="10 ranks gone"), _short)


def test_the_published_weaknesses_appear_where_partitions_differ() -> None:
    """Exact gradients, so that nothing but the code is to blame: biased ones stall, shifted coding and waiting do not."""
    base = Cell("logistic", "exponential", "sync", 8, 0, 4.0, "wait", 0.05, 1e-4, 20.0)
    made = {name: simulated(replace(base, scheme=name, deadline=0.15)) for name in ("ignore", "erasurehead", "shifted")}
    made["sync"] = simulated(base)
    assert made["sync"].status == made["shifted"].status == "reached"
    assert made["shifted"].seconds < made["sync"].seconds
    for name in ("ignore", "erasurehead"):
        assert made[name].status == "budget"
        assert made[name].steps > 2 * made["sync"].steps
        assert min(row[2] for row in made[name].curve[-10:]) > 2e-4
