"""What a user reads when their own code raises in a worker: where it was, and the traceback of their code alone."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gcdist.model.gradients import PartitionGradients, UserCodeError
from gcdist.model.state import ModelState
from gcdist.tasks import Task

HERE = "test_error_texts.py"


class Data:
    def __init__(self, bad: int | None = None) -> None:
        self.bad = bad

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Tensor:
        if index == self.bad:
            raise KeyError(f"no row {index}")
        return torch.full((3,), float(index))


class Broken(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        raise ArithmeticError("no way back")


def bad_collate(samples: list[Tensor]) -> Tensor:
    try:
        return torch.stack(samples) + torch.ones(7)
    except RuntimeError as error:
        raise TypeError("cannot be put together") from error


def loss(model: nn.Module, batch: Tensor) -> Tensor:
    mean: Tensor = (model(batch) ** 2).mean()
    return mean


def text_of(**changed: Any) -> str:
    """The error's text at partition 1 of 3, step 5; batches are whole partitions: samples 4 to 7."""
    values: dict[str, Any] = {"model": nn.Linear(3, 1), "dataset": Data(), "loss_fn": loss, "batch_size": 4, **changed}
    task = Task(**values)
    state = ModelState(task.model, own=True)
    with pytest.raises(UserCodeError) as raised:
        _ = PartitionGradients(task, state, 3, 0).compute(5, 1).gradient
    return raised.value.text


def frames(text: str) -> list[str]:
    """Files of the traceback, the first one printed first."""
    return [path.rsplit("/", 1)[-1] for path in re.findall(r'File "([^"]+)"', text)]


ALL = r"\(step 5, partition 1, samples \[4 5 6 7\]\)"


def test_in_the_data_set() -> None:
    text = text_of(dataset=Data(bad=6))
    assert text.splitlines()[0] == "KeyError: 'no row 6' (step 5, partition 1, sample 6)"
    assert frames(text) == [HERE]
    assert text.splitlines()[1] == "Traceback (most recent call last):"
    assert "in __getitem__" in text
    assert text.endswith("KeyError: 'no row 6'")


def test_in_collate_fn_with_its_cause() -> None:
    text = text_of(collate_fn=bad_collate)
    assert re.match(rf"TypeError: cannot be put together {ALL}\n", text)
    assert "The direct cause" not in text.splitlines()[1]
    assert "The size of tensor a (3) must match the size of tensor b (7)" in text
    assert set(frames(text)) == {HERE}


def test_in_the_forward_pass_torch_s_frames_below_the_user_s_stay() -> None:
    text = text_of(model=nn.Linear(5, 1))
    assert re.match(rf"RuntimeError: mat1 and mat2 shapes cannot be multiplied \(4x3 and 5x1\) {ALL}\n", text)
    assert frames(text)[0] == HERE
    assert frames(text)[-1] == "linear.py"


def test_in_the_backward_pass() -> None:
    apply: Any = Broken.apply
    text = text_of(loss_fn=lambda model, batch: apply(model(batch)).mean())
    assert re.match(rf"ArithmeticError: no way back {ALL}\n", text)
    assert frames(text)[-1] == HERE
    assert "compute.py" not in frames(text)


@pytest.mark.parametrize(
    ("loss_fn", "line"),
    [
        (lambda model, batch: loss(model, batch) * float("nan"), "the loss is nan"),
        (
            lambda model, batch: (model(batch) * 0).sqrt().mean(),
            "the gradient of parameter 'weight' is not finite (nan)",
        ),
        (lambda model, batch: 1.0, "ValueError: loss_fn must be a 0-dim tensor or a dict of them, found float"),
        (
            lambda model, batch: model(batch),
            "ValueError: loss_fn must be one floating-point number, found torch.float32 of shape (4, 1)",
        ),
    ],
)
def test_a_loss_that_is_none_is_one_line(loss_fn: Any, line: str) -> None:
    assert text_of(loss_fn=loss_fn) == f"{line} (step 5, partition 1, samples [4 5 6 7])"
