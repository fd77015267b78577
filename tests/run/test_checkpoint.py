"""Checkpoints on disk: whole or not there, whatever is killed when; and nested state, without pickle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gcdist.run.checkpoint import DamagedError, newest_checkpoint, read_checkpoint, write_checkpoint
from gcdist.run.nested_state import StateError, pack, unpack
from gcdist.run.user_state import Parts, load_model, model_state

HERE = Path(__file__).parent


def there_and_back(value: Any) -> Any:
    packed, tensors = pack(value)
    return unpack(json.loads(json.dumps(packed, allow_nan=False)), tensors)


leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
keys = st.text() | st.integers()
nested = st.recursive(
    leaves, lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(keys, inner), max_leaves=20
)


@settings(derandomize=True, deadline=None)
@given(nested)
def test_plain_state_comes_back_as_it_was(value: Any) -> None:
    back = there_and_back(value)
    assert back == value
    assert repr(back) == repr(value)  # types and the order of keys too


def test_arrays_and_tensors_come_back_as_they_were() -> None:
    state: dict[Any, Any] = {
        "bf16": torch.randn(3, generator=torch.Generator().manual_seed(0)).bfloat16(),
        "zero": torch.tensor(2.5, dtype=torch.float64),
        "empty": torch.zeros(0, 4),
        "turned": torch.arange(6).reshape(2, 3).t(),
        "rng": {"key": np.arange(4, dtype=np.uint32), "pos": 3},
        "scalar": np.float32(0.1),
        "flags": np.array([True, False]),
        0: {"exp_avg": torch.ones(2, requires_grad=True)},
        "a/b": torch.zeros(1),
        "a": {"b": torch.ones(1)},
        "nan": float("nan"),
        "milestones": Counter({3: 2}),
        "ordered": OrderedDict(x=1),
        "%odd": 1,
    }
    back = there_and_back(state)
    assert list(back) == list(state)
    for name in ("bf16", "zero", "empty", "turned", "a/b"):
        assert torch.equal(back[name], state[name])
        assert back[name].dtype == state[name].dtype
    assert back["rng"]["key"].dtype == np.uint32
    assert back["rng"]["key"].tolist() == [0, 1, 2, 3]
    assert type(back["scalar"]) is np.float32
    assert back["scalar"] == np.float32(0.1)
    assert not back[0]["exp_avg"].requires_grad
    assert float(back["a"]["b"]) == 1.0
    assert back["nan"] != back["nan"]
    assert back["milestones"] == Counter({3: 2})
    assert type(back["milestones"]) is Counter
    assert back["%odd"] == 1
    shared = torch.zeros(4)
    _, tensors = pack({"x": shared, "y": shared})
    assert len({t.data_ptr() for t in tensors.values()}) == 2


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": [1, {2, 3}]}, "mine/a/1 is of type set"),
        ({"fn": len}, "mine/fn is of type builtin_function_or_method"),
        ({(1, 2): 3}, "mine has the key .* of type tuple"),
        ({"x": np.array(["a"])}, "mine/x is an array of <U1"),
        ({"x": torch.zeros(2, 2).to_sparse()}, "mine/x is a tensor of layout torch.sparse_coo"),
        ({"raw": memoryview(b"x")}, "mine/raw is of type memoryview"),
    ],
)
def test_what_cannot_be_kept_is_named(value: Any, text: str) -> None:
    with pytest.raises(StateError, match=text):
        pack(value, "mine")
    with pytest.raises(ValueError, match=text):
        Parts().add("mine", value)


def test_state_that_holds_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(StateError, match="mine holds itself"):
        pack(loop, "mine")


def save(folder: Path, step: int, keep: int = 2) -> Path:
    return write_checkpoint(
        folder, step, {"w": torch.full((5,), float(step))}, {"step": step, "x": torch.ones(3)}, keep
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def loud(line: str) -> None:
    raise AssertionError(line)


def test_the_newest_are_kept_and_equal_steps_follow_each_other(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "none", loud) is None
    for step in (5, 10, 15):
        save(tmp_path, step)
    assert names(tmp_path) == ["step-00000010", "step-00000015"]
    save(tmp_path, 15)
    assert names(tmp_path) == ["step-00000010", "step-00000015-2"]
    found = newest_checkpoint(tmp_path, loud)
    assert found is not None
    assert (found.step, found.state["step"], found.model["w"].tolist()) == (15, 15, [15.0] * 5)
    save(tmp_path, 12)  # the run was taken up at step 10: what it had done after is over
    assert names(tmp_path) == ["step-00000010", "step-00000012"]


def test_a_kill_at_any_moment_leaves_a_good_checkpoint(tmp_path: Path) -> None:
    """The script forks a writer for every system call of a save and has it killed there."""
    script = HERE / "killed_writer_script.py"
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 0, done.stdout + done.stderr
    killed = int(done.stdout.split()[-1])
    assert killed > 12


def test_a_damaged_one_is_passed_over(tmp_path: Path) -> None:
    good = save(tmp_path, 5)
    bad = save(tmp_path, 6)
    (bad / "checksums.json").write_text('{"format": 2, "step"')
    lines: list[str] = []
    found = newest_checkpoint(tmp_path, lines.append)
    assert found is not None
    assert found.path == good
    assert len(lines) == 1
    told = json.loads((good / "checksums.json").read_text())
    (good / "checksums.json").write_text(json.dumps({**told, "format": 99}))
    with pytest.raises(DamagedError, match="has format 99; this version reads 2"):
        read_checkpoint(good)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(4, 3)
        self.out = nn.Linear(3, 4, bias=False)
        self.out.weight = self.table.weight
        self.turned = nn.Parameter(torch.arange(6.0).reshape(2, 3).t())

    def get_extra_state(self) -> dict[str, Any]:
        return {"seen": 3}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.extra = state


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.compile's own imports
def test_tied_and_compiled_models_come_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Tied()
    compiled = torch.compile(model)
    tensors, besides = model_state(compiled)  # type: ignore[arg-type]
    assert sorted(tensors) == ["out.weight", "table.weight", "turned"]
    path = write_checkpoint(tmp_path, 1, tensors, besides, 1)
    found = read_checkpoint(path)
    fresh = Tied()
    load_model(torch.compile(fresh), found.model, found.state, frozenset(tensors))  # type: ignore[arg-type]
    assert torch.equal(fresh.out.weight, model.out.weight)
    assert fresh.out.weight is fresh.table.weight
    assert torch.equal(fresh.turned, model.turned)
    assert fresh.extra == {"seen": 3}


def test_a_frozen_parameter_must_be_what_the_workers_have() -> None:
    torch.manual_seed(0)
    model, other = nn.Linear(2, 2), nn.Linear(2, 2)
    tensors, besides = model_state(model)
    with pytest.raises(ValueError, match="frozen parameter 'bias' has another value"):
        load_model(other, tensors, besides, frozenset({"weight"}))
    load_model(other, tensors, besides, frozenset({"weight", "bias"}))
    assert torch.equal(other.weight, model.weight)
    with pytest.raises(ValueError, match=r"'weight' has shape \(2, 2\) in the checkpoint, \(2, 3\) in the model"):
        load_model(nn.Linear(3, 2), tensors, besides, frozenset({"weight", "bias"}))


def test_tracked_parts() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=0.5)
    parts = Parts({"optimizer": optimizer.state_dict(), "mine": {"a": 1}, "gone": 3})
    fresh = torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=0.1)
    mine = {"b": 2}
    assert "lr = 0.5 (the script: 0.1)" in str(parts.add("optimizer", fresh))
    assert parts.add("mine", mine) is None
    assert mine == {"a": 1}
    assert fresh.param_groups[0]["lr"] == 0.5
    assert parts.forgotten == ["gone"]
    assert parts.state_dict()["gone"] == 3  # kept for whoever asks for it next time
    assert parts.has_optimizer
    assert parts.add("late", {}) == "late is not in the checkpoint: it begins anew"
    with pytest.raises(ValueError, match="track: there is another 'mine' already"):
        parts.add("mine", {})
    with pytest.raises(ValueError, match="track: x is of type int; should have state_dict"):
        parts.add("x", 3)  # type: ignore[arg-type]
    two = torch.optim.SGD([nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))], lr=0.1)
    with pytest.raises(ValueError, match="track: optimizer's state in the checkpoint does not fit"):
        Parts({"optimizer": optimizer.state_dict()}).add("optimizer", two)
