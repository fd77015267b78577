from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcdist.config import (
    Config,
    ConfigError,
    StragglerConfig,
    dump_config,
    load_config,
    secret_warnings,
    shared_settings,
    suggest,
    with_overrides,
)


def write(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text)
    return path


def fails(**values: object) -> str:
    with pytest.raises(ConfigError) as error:
        Config(**values)
    return str(error.value)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"stepz": 3}, 'stepz: unknown key; did you mean "steps"? allowed: seed, steps, epochs, out,'),
        ({"code": {"partitionz": 3}}, 'code.partitionz: unknown key; did you mean "partitions"? allowed: scheme,'),
        ({"steps": 0}, "steps: found 0; should be greater than or equal to 1"),
        ({"steps": "3"}, 'steps: found "3"; should be a valid integer'),
        ({"steps": True}, "steps: found true; should be a valid integer"),
        ({"code": 3}, "code: found 3; should be a table of keys"),
        ({"optimizer": {"name": "sdg"}}, "optimizer.name: found \"sdg\"; should be 'sgd', 'adam' or 'adamw'"),
        ({"straggler": {"deadline": -1}}, 'straggler.deadline: found -1; should be seconds above 0, "auto" or "wait"'),
        ({"straggler": {"deadline": None}}, 'straggler.deadline: found null; should be seconds above 0, "auto"'),
        ({"straggler": {"deadline": {"a": 1}}}, 'straggler.deadline: found {"a": 1}; should be seconds above 0'),
        ({"straggler": {"deadline": 90}}, "straggler.deadline: found 90.0; should be at most max_wait = 60.0"),
        ({"straggler": {"max_wait": 0.0}}, "straggler.max_wait: found 0.0; should be greater than 0"),
        ({"straggler": {"noise_most": -1.0}}, "straggler.noise_most: found -1.0; should be greater than 0"),
        ({"straggler": {"prior_p": 0.0}}, "straggler.prior_p: found 0.0; should be greater than 0"),
        ({"straggler": {"prior_weight": 0.0}}, "straggler.prior_weight: found 0.0; should be greater than 0"),
        ({"straggler": {"window": 0}}, "straggler.window: found 0; should be greater than or equal to 1"),
        ({"straggler": {"p": [0.1, 2]}}, 'straggler.p: found [0.1, 2]; should be "measured", "model" or a list'),
        ({"straggler": {"p": [0.1, 0.2]}}, "straggler.p: found a list; it holds for one deadline: give seconds in"),
        ({"straggler": {"p": "model"}}, 'straggler.p: found "model"; it needs a delay model in inject.model'),
        ({"inject": {"model": "none", "mean": 1.0}}, 'inject.mean: found 1.0; the model "none" does not use it'),
        ({"inject": {"model": "trace"}}, 'inject.file: missing; the model "trace" needs a CSV file'),
        ({"inject": {"model": "pareto", "scale": 1.0}}, 'inject.shape: found 0.0; the model "pareto" needs numbers'),
        ({"inject": {"model": "shifted-exponential", "mean": [-1.0]}}, "inject.mean: found [-1.0]; should be a number"),
        ({"optimizer": {"name": "adam", "momentum": 0.9}}, 'optimizer.momentum: found 0.9; the optimizer "adam" does'),
        ({"quantizer": {"name": {}}}, "quantizer.name: found {}; should be a valid string"),
        ({"quantizer": {"bits": 9}}, 'quantizer.bits: found 9; the quantizer "rotated-dither" takes 1 to 8'),
        ({"quantizer": {"name": "float32", "bits": 4}}, 'quantizer.bits: found 4; the quantizer "float32" has 32'),
        ({"cluster": {"workers": 2, "min_workers": 3}}, "cluster.min_workers: found 3; should be at most workers = 2"),
        ({"cluster": {"beat": 9.0}}, "cluster.silent_after: found 5.0; should be above beat = 9.0"),
        ({"name": "a/b"}, 'name: found "a/b"; should be the name of one folder'),
        ({"name": "a\0b"}, 'name: found "a\\u0000b"; should be the name of one folder'),
        ({"name": "x" * 300}, "name: found 300 characters; file systems take up to 255 bytes"),
        ({"out": "a\0b"}, 'out: found "a\\u0000b"; a path cannot have a NUL character'),
        (
            {"out": "y/" + "x" * 300},
            'out: found "y/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx... (304 characters); a name in it has',
        ),
        (
            {"cluster": {"secret_file": "\0"}},
            'cluster.secret_file: found "\\u0000"; a path cannot have a NUL character',
        ),
        (
            {"straggler": {"window": 99999999999}},
            "straggler.window: found 99999999999; should be less than or equal to 1",
        ),
        ({"cluster": {"threads": 1000000}}, "cluster.threads: found 1000000; should be less than or equal to 4096"),
        (
            {"cluster": {"start_timeout": 1e300}},
            "cluster.start_timeout: found 1e+300; should be less than or equal to 1",
        ),
        ({"straggler": {"max_wait": 1e300}}, "straggler.max_wait: found 1e+300; should be less than or equal to 1"),
        (
            {"inject": {"model": "shifted-exponential", "shift": 1e300}},
            "inject.shift: found 1e+300; should be at most 1e+08",
        ),
        ({"steps": 10**30}, "steps: found 1000000000000000000000000000000; should be less than or equal to 1"),
        ({"quantizer": {"bits": 4, "bits_most": 1}}, "quantizer.bits_most: found 1; bits = 4 is the average over the"),
        (
            {"cluster": {"workers": 3}, "inject": {"model": "shifted-exponential", "mean": [1.0]}},
            "inject.mean: found a list of 1; cluster.workers is 3",
        ),
        (
            {"cluster": {"workers": 3}, "straggler": {"deadline": 0.5, "p": [0.1]}},
            "straggler.p: found a list of 1; cluster.workers is 3",
        ),
    ],
)
def test_a_mistake_is_one_clear_line(values: dict[str, object], line: str) -> None:
    text = fails(**values)
    assert text.startswith(line)
    assert "\n" not in text


def test_every_mistake_has_its_line_with_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "steps = 0\n[task]\nbatchsize = 3\n[cluster]\nworkers = 2\nmin_workers = 3\n")
    with pytest.raises(ConfigError) as error:
        load_config(path)
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    assert all(line.startswith(f"{path}: ") for line in lines)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.toml: no such file"):
        load_config(tmp_path / "gone.toml")
    with pytest.raises(ConfigError, match=r"run\.toml: not valid TOML: .*line 2"):
        load_config(write(tmp_path, "steps = 1\nseed = = 2\n"))
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)


def test_the_secret_is_never_in_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text("sesame of sixteen\n")
    config = load_config(write(tmp_path, '[cluster]\nsecret_file = "key"\n'))
    assert config.resolved(2).cluster.shared_secret() == "sesame of sixteen"
    assert "sesame" not in dump_config(config) + repr(config)
    monkeypatch.setenv("GCDIST_SECRET", " open, and of sixteen ")
    assert config.cluster.shared_secret() == "sesame of sixteen"
    assert Config().cluster.shared_secret() == "open, and of sixteen"
    monkeypatch.delenv("GCDIST_SECRET")
    assert Config().cluster.shared_secret() is None
    assert "sesame" not in fails(cluster={"secret": "sesame"})


def test_a_secret_file_that_gives_no_secret(tmp_path: Path) -> None:
    gone, empty, bytes_ = tmp_path / "gone", tmp_path / "empty", tmp_path / "bytes"
    empty.write_text("\n")
    bytes_.write_bytes(b"\xff\xfe")
    for path, why in ((gone, "No such file"), (empty, "is empty"), (bytes_, "is not text")):
        with pytest.raises(ConfigError, match=rf"cluster\.secret_file: .*{path.name}.*{why}"):
            Config(cluster={"secret_file": str(path)}).cluster.shared_secret()


@pytest.mark.parametrize(
    ("secret", "why"),
    [
        ("", "GCDIST_SECRET is empty; openssl"),
        (" \t\n", "GCDIST_SECRET is empty"),
        ("fifteen letters", "GCDIST_SECRET has 15 characters; a secret has 16 to 4096"),
        ("x" * 5000, "GCDIST_SECRET has 5000 characters"),
        ("\udcff" * 20, "GCDIST_SECRET cannot be read: it is not text"),
    ],
)
def test_a_secret_that_is_none_is_refused(secret: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GCDIST_SECRET", secret)
    with pytest.raises(ConfigError, match=f"^{why}") as found:
        Config().cluster.shared_secret()
    assert "\n" not in str(found.value)


def test_a_secret_file_that_others_may_read_is_warned_of(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("x" * 40)
    file.chmod(0o640)
    [line] = secret_warnings(file)
    assert "(mode 640); chmod 600" in line
    file.chmod(0o600)
    assert secret_warnings(file) == secret_warnings(None) == []


def test_keys_of_the_other_transport_are_refused() -> None:
    assert 'cluster.key: found "k"; the transport "gloo" does not use it' in fails(cluster={"key": "k"})
    assert "cluster.port: found 29500" in fails(cluster={"port": 29500})
    wrong = fails(cluster={"transport": "tls", "certificate": "c"})
    assert wrong.splitlines() == [
        "cluster.key: missing; certificate is given",
        "cluster.authority: missing; certificate is given",
    ]


def test_values_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().steps = 3


def test_sections_may_be_given_as_objects() -> None:
    assert Config(straggler=StragglerConfig(deadline=0.5)) == Config(straggler={"deadline": 0.5})


def test_float32_has_32_bits_by_itself() -> None:
    assert Config(quantizer={"name": "float32"}).quantizer.bits == 32


@settings(derandomize=True, deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 2**63 - 1),
    name=st.none() | st.text("abc -", min_size=1),
    options=st.dictionaries(st.text(min_size=1), st.integers(-5, 5) | st.text() | st.lists(st.floats(0, 1))),
    straggler=st.fixed_dictionaries(
        {},
        optional={
            "deadline": st.floats(1e-3, 60) | st.sampled_from(["auto", "wait"]),
            "window": st.integers(1, 1000),
            "prior_p": st.floats(0.01, 0.99),
        },
    ),
    mean=st.floats(0, 10) | st.lists(st.floats(0, 10), min_size=4, max_size=4),
)
def test_what_is_dumped_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    name: str | None,
    options: dict[str, object],
    straggler: dict[str, object],
    mean: object,
) -> None:
    inject = {"model": "shifted-exponential", "mean": mean}
    config = Config(seed=seed, name=name, task={"options": options}, straggler=straggler, inject=inject).resolved(4)
    path = write(tmp_path_factory.mktemp("dump"), dump_config(config))
    assert load_config(path) == config


def test_resolved_fills_what_depends_on_the_workers() -> None:
    config = Config().resolved(5)
    assert (config.code.partitions, config.cluster.min_workers, config.cluster.workers) == (10, 3, 5)
    assert config.cluster.threads == 1
    assert Config(code={"partitions": 7}).resolved(5).code.partitions == 7
    with pytest.raises(ConfigError, match=r"cluster\.workers: found 4; 5 were started"):
        Config(cluster={"workers": 4}).resolved(5)
    with pytest.raises(ConfigError, match=r"inject\.mean: found a list of 2; cluster\.workers is 5"):
        Config(inject={"model": "shifted-exponential", "mean": [1.0, 2.0]}).resolved(5)
    with pytest.raises(ConfigError, match=r"cluster\.min_workers: found 6"):
        Config(cluster={"min_workers": 6}).resolved(5)


def test_the_fingerprint_covers_what_both_ends_share(tmp_path: Path) -> None:
    base = shared_settings(Config())
    assert base == shared_settings(Config(steps=3, optimizer={"lr": 0.5}, cluster={"beat": 2.0}, out="elsewhere"))
    for other in ({"seed": 1}, {"task": {"batch_size": 3}}, {"code": {"partitions": 3}}, {"quantizer": {"bits": 3}}):
        assert shared_settings(Config(**other)) != base
    traces = [Config(inject={"model": "trace", "file": folder / "a.csv"}) for folder in (tmp_path, tmp_path / "b")]
    assert shared_settings(traces[0]) == shared_settings(traces[1]) != base


def test_overrides(tmp_path: Path) -> None:
    path = write(tmp_path, "[straggler]\nwindow = 10\n")
    config = load_config(path, ["straggler.deadline=0.5", "task.options.size=8", "name=first", "steps = 7"])
    assert (config.straggler.window, config.straggler.deadline, config.name, config.steps) == (10, 0.5, "first", 7)
    assert config.task.options == {"size": 8}
    for text in ("steps", "=3", "a..b=1"):
        with pytest.raises(ConfigError, match="should be KEY=VALUE"):
            with_overrides({}, [text])
    with pytest.raises(ConfigError, match="steps is not a table"):
        with_overrides({"steps": 1}, ["steps.x=1"])
    values = {"straggler": {"window": 10}}
    with_overrides(values, ["straggler.window=3"])
    assert values == {"straggler": {"window": 10}}


def test_a_trace_is_looked_for_beside_the_config(tmp_path: Path) -> None:
    path = write(tmp_path, '[inject]\nmodel = "trace"\nfile = "trace.csv"\n')
    assert load_config(path).inject.file == tmp_path.resolve() / "trace.csv"


def test_suggest() -> None:
    assert suggest("nothing like it", ["osgc", "sync"]) == "allowed: osgc, sync"


@pytest.mark.parametrize("most", [1, [3, 2, 1]])
def test_bits_most_below_bits_is_refused(most: object) -> None:
    """It was raised to ``bits`` in silence."""
    with pytest.raises(ConfigError, match=r"quantizer\.bits_most: found .*; bits = 4 is the average over the workers"):
        Config(quantizer={"bits": 4, "bits_most": most})
    assert Config(quantizer={"bits": 1, "bits_most": 1}).quantizer.bits_most == 1
    assert Config(quantizer={"bits": 4, "bits_most": [0, 8, 2]}).quantizer.bits_most == (0, 8, 2)
