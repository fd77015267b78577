from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from gcdist.runtime.compute import PartitionGradients, PartitionResult, UserCodeError
from gcdist.runtime.state import ModelState
from gcdist.tasks import Task, digits


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """As in the workers: more threads than free cores make small operations 20 times slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def fresh(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


class Rich(nn.Module):
    """BatchNorm, dropout, tied weights, a frozen parameter, and buffers of many kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.norm = nn.BatchNorm1d(6)
        self.drop = nn.Dropout(0.4)
        self.second = nn.Linear(6, 4)
        self.tied = nn.Linear(6, 4, bias=False)
        self.tied.weight = self.second.weight
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.running: Tensor
        self.register_buffer("running", torch.zeros(2))
        self.register_buffer("wide", torch.full((2,), 1.5, dtype=torch.float64))
        self.register_buffer("narrow", torch.tensor(0.5, dtype=torch.bfloat16))
        self.register_buffer("flag", torch.tensor([True, False, True]))
        self.register_buffer("nothing", None)
        self.register_buffer("mask", torch.tensor([-torch.inf, 0.1]))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.drop(torch.relu(self.norm(self.first(x))))
        self.running = 0.9 * self.running + x.detach().mean()  # a new tensor in the buffer's place
        out: Tensor = self.second(hidden) + self.tied(hidden)
        return out


class Noisy:
    """Random augmentation from all three global generators."""

    def __init__(self, n: int = 40) -> None:
        self.x = np.random.default_rng(0).standard_normal((n, 4)).astype(np.float32)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Tensor:
        noise = random.random() + np.random.rand() + torch.rand(4)  # noqa: NPY002
        return torch.from_numpy(self.x[index]) + noise


def square(model: nn.Module, batch: Tensor) -> dict[str, Tensor]:
    out = model(batch)
    return {"fit": (out - batch).square().mean(), "size": 0.1 * out.abs().mean()}


def rich_task() -> Task:
    return Task(fresh(Rich), Noisy(), square, batch_size=4)


def bits(result: PartitionResult) -> tuple[Any, ...]:
    buffers = result.float_buffers.tobytes(), result.int_buffers.tobytes()
    return result.loss, result.gradient.tobytes(), *buffers, result.used.tobytes(), result.samples


# --- parameters and buffers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("own_out", [False, True])
@pytest.mark.parametrize("own_in", [False, True])
def test_a_snapshot_carries_everything(own_out: bool, own_in: bool) -> None:
    source = fresh(Rich, 1)
    with torch.no_grad():
        source(torch.randn(8, 4, generator=torch.Generator().manual_seed(0)))
    sender, receiver = ModelState(source, own=own_out), ModelState(fresh(Rich, 2), own=own_in)
    raw = sender.snapshot()
    assert raw.nbytes == sender.nbytes == receiver.nbytes
    assert sender.nbytes % 8 == 0
    receiver.load(raw)
    for (name, a), (_, b) in zip(source.state_dict().items(), receiver.model.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
        assert a.dtype == b.dtype
    out = np.ones(receiver.nbytes, np.uint8)
    assert receiver.snapshot(out) is out
    again = ModelState(fresh(Rich, 3))
    again.load(out)
    assert again.snapshot().tobytes() == raw.tobytes()
    with pytest.raises(ValueError, match=f"has {sender.nbytes} bytes, found shape"):
        receiver.load(raw[:-8])


def test_the_vector_holds_trainable_parameters_once_and_in_order() -> None:
    model = fresh(Rich)
    state = ModelState(model)
    assert state.names == ["first.weight", "first.bias", "norm.weight", "norm.bias", "second.weight", "second.bias"]
    assert state.layout.d == 24 + 6 + 6 + 6 + 24 + 4
    assert state.layout.edges.tolist() == [0, state.layout.d]
    flat = state.snapshot()[: 4 * state.layout.d].view(np.float32)
    np.testing.assert_array_equal(flat[:24], model.get_parameter("first.weight").detach().numpy().ravel())
    assert [state.name_at(i) for i in (0, 23, 24, 69)] == ["first.weight", "first.weight", "first.bias", "second.bias"]


def test_owned_parameters_stay_tied_and_trainable() -> None:
    model = fresh(Rich)
    ModelState(model, own=True)
    assert model.get_submodule("tied").weight is model.get_submodule("second").weight
    assert model.get_parameter("first.weight").is_leaf
    assert model.get_parameter("first.weight").requires_grad


def test_fingerprint_is_of_the_structure_and_of_frozen_values() -> None:
    reference = ModelState(fresh(Rich, 1)).layout.fingerprint
    assert len(reference) == 16
    assert ModelState(fresh(Rich, 2), own=True).layout.fingerprint == reference

    def changed(change: Callable[[Any], Any]) -> str:
        model = fresh(Rich)
        change(model)
        return ModelState(model).layout.fingerprint

    others = [
        changed(lambda m: m.frozen.data.add_(1e-3)),
        changed(lambda m: m.first.bias.requires_grad_(False)),
        changed(lambda m: setattr(m, "second", nn.Linear(6, 4))),  # untied
        changed(lambda m: m.register_buffer("one_more", torch.zeros(1))),
        changed(lambda m: setattr(m, "wide", m.wide.float())),
        changed(lambda m: setattr(m, "first", nn.Linear(4, 6, bias=False))),
    ]
    assert len({reference, *others}) == 7


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Linear(2, 2).double(), "parameter 'weight' is torch.float64: only torch.float32"),
        (lambda: nn.Linear(2, 2).bfloat16(), "parameter 'weight' is torch.bfloat16"),
        (lambda: nn.Linear(2, 2).requires_grad_(False), "Linear has no parameter with requires_grad"),
        (lambda: nn.Linear(2, 2, device="meta"), "parameter 'weight' is on meta"),
    ],
)
def test_refuses_models(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelState(make())


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_refuses_lazy_and_complex() -> None:
    with pytest.raises(ValueError, match="parameter 'weight' has no shape yet"):
        ModelState(nn.LazyLinear(2))
    model = nn.Linear(2, 2)
    model.register_buffer("phase", torch.zeros(1, dtype=torch.complex64))
    with pytest.raises(ValueError, match=r"buffer 'phase' is torch.complex64"):
        ModelState(model)


def test_gradients_are_views_and_none_where_the_model_gives_none() -> None:
    model = nn.Linear(2, 2)
    state = ModelState(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    before = state.snapshot()[:24].view(np.float32).copy()
    g = np.arange(6, dtype=np.float32)
    state.set_grad(g, np.array([True, False]))
    assert model.weight.grad is not None
    assert model.weight.grad.tolist() == [[0, 1], [2, 3]]
    assert model.weight.grad.data_ptr() == g.ctypes.data
    assert model.bias.grad is None
    optimizer.step()
    np.testing.assert_array_equal(
        state.snapshot()[:24].view(np.float32), before - np.array([0, 1, 2, 3, 0, 0], np.float32)
    )
    model.bias.requires_grad_(False)
    state.set_grad(g)
    assert model.bias.grad is None


def test_buffers_are_averaged_by_share_and_counters_take_the_maximum() -> None:
    state = ModelState(nn.BatchNorm1d(1))
    f32, i64 = np.float32, np.int64
    state.merge_buffers([])
    state.merge_buffers(
        [
            (0.1, np.array([1, 4], f32), np.array([5], i64)),
            (0.3, np.array([3, 0], f32), np.array([2], i64)),
        ]
    )
    floats, ints = state.buffer_update()
    np.testing.assert_allclose(floats, [2.5, 1.0], rtol=1e-7)
    assert ints.tolist() == [5]
    rich = ModelState(fresh(Rich))
    floats, ints = rich.buffer_update()
    rich.merge_buffers([(share, floats, ints) for share in (0.07, 0.3, 0.11)])
    merged, counters = rich.buffer_update()
    assert merged.tobytes() == floats.tobytes()  # what nobody changed keeps its bits, minus infinity too
    assert counters.tobytes() == ints.tobytes()


# --- partition gradients ----------------------------------------------------------------------------------------------


def test_gradients_do_not_depend_on_what_was_computed_before() -> None:
    task = rich_task()
    raw = ModelState(copy.deepcopy(task.model)).snapshot()
    jobs = [(step, j) for step in (0, 5) for j in range(4)]

    def run(own: bool, order: list[tuple[int, int]], seed: int = 1) -> dict[tuple[int, int], Any]:
        state = ModelState(fresh(Rich, 99), own=own)
        gradients = PartitionGradients(task, state, 4, seed)
        state.load(raw)
        return {job: bits(gradients.compute(*job)) for job in order}

    reference = run(True, jobs)
    assert len(set(reference.values())) == len(jobs)
    assert run(True, jobs[::-1]) == reference
    assert run(True, [job for job in jobs for _ in range(2)]) == reference
    assert run(True, jobs[3:4]).items() <= reference.items()
    assert not set(run(True, jobs, seed=2).values()) & set(reference.values())


def test_global_generators_are_left_as_they_were() -> None:
    gradients = PartitionGradients(rich_task(), ModelState(fresh(Rich), own=True), 4, 0)

    def draws() -> list[float]:
        return [random.random(), float(np.random.rand()), float(torch.rand(1))]  # noqa: NPY002

    def seed_all() -> None:
        random.seed(3)
        np.random.seed(3)  # noqa: NPY002
        torch.default_generator.manual_seed(3)

    seed_all()
    expected = draws() + draws()
    seed_all()
    found = draws()
    gradients.compute(0, 0)
    assert found + draws() == expected


def test_partition_gradients_sum_to_the_gradient_of_the_mean_loss() -> None:
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((30, 5), np.float32))
    y = torch.from_numpy(rng.standard_normal((30, 2), np.float32))
    cuts = [range(3), range(3, 20), range(20, 30)]

    def loss_fn(model: nn.Module, batch: Any) -> Tensor:
        return functional.mse_loss(model(batch[0]), batch[1])

    model = nn.Linear(5, 2)
    task = Task(model, TensorDataset(x, y), loss_fn, batch_size=30, partitioner=lambda dataset, k: cuts)
    state = ModelState(model, own=True)
    gradients = PartitionGradients(task, state, 3, 0)
    np.testing.assert_allclose(gradients.sizes_K, [0.1, 17 / 30, 1 / 3])
    results = []
    for j in range(3):
        result = gradients.compute(0, j)
        results.append((result.gradient.copy(), result.share * result.loss, result.samples))
    full = loss_fn(model, (x, y))
    expected = torch.cat([g.reshape(-1) for g in torch.autograd.grad(full, list(model.parameters()))])
    np.testing.assert_allclose(sum(g for g, _, _ in results), expected.numpy(), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(sum(loss for _, loss, _ in results), float(full.detach()), rtol=1e-6)
    assert [samples for _, _, samples in results] == [3, 17, 10]
    assert all(p.grad is None for p in model.parameters())


def test_a_loss_in_bfloat16_does_not_round_the_share() -> None:
    cuts = [range(3), range(3, 7)]
    task = Task(
        nn.Linear(1, 1, bias=False),
        TensorDataset(torch.ones(7, 1)),
        lambda model, batch: model(batch[0]).mean().bfloat16(),
        partitioner=lambda dataset, k: cuts,
    )
    gradients = PartitionGradients(task, ModelState(task.model, own=True), 2, 0)
    assert float(gradients.compute(0, 0).gradient[0]) == pytest.approx(3 / 7, rel=1e-6)


def test_samples_are_uniform_without_replacement() -> None:
    task = Task(nn.Linear(1, 1), TensorDataset(torch.zeros(50, 1)), digits.mean_loss, batch_size=8)
    gradients = PartitionGradients(task, ModelState(task.model), 2, 3)
    counts = np.zeros(50)
    steps = 2000
    for step in range(steps):
        samples = gradients.batches.samples(step, 1)
        assert len(set(samples.tolist())) == 8
        counts[samples] += 1
    assert counts[:25].sum() == 0
    # 25 binomial counts of (2000, 0.32): each is 5 sigma off with probability 6e-7, any with 1.5e-5
    sigma = np.sqrt(steps * 0.32 * 0.68)
    assert np.abs(counts[25:] - steps * 0.32).max() < 5 * sigma
    again = PartitionGradients(task, ModelState(task.model), 2, 3)
    assert again.batches.samples(1234, 1).tolist() == gradients.batches.samples(1234, 1).tolist()
    small = Task(task.model, task.dataset, task.loss_fn, batch_size=25)
    assert PartitionGradients(small, ModelState(task.model), 2, 3).batches.samples(7, 0).tolist() == list(range(25))


def test_partitions_do_not_see_one_anothers_buffers() -> None:
    model = nn.Sequential(nn.BatchNorm1d(1, momentum=1.0))
    x = torch.arange(8, dtype=torch.float32)[:, None]
    task = Task(model, TensorDataset(x), lambda model, batch: model(batch[0]).square().mean(), batch_size=4)
    state = ModelState(model, own=True)
    gradients = PartitionGradients(task, state, 2, 0)
    results = [gradients.compute(0, j) for j in (0, 1, 0)]
    assert [float(r.float_buffers[0]) for r in results] == [1.5, 5.5, 1.5]
    assert [r.int_buffers.tolist() for r in results] == [[1], [1], [1]]
    state.merge_buffers([(r.share, r.float_buffers, r.int_buffers) for r in results[:2]])
    assert model.get_buffer("0.running_mean").item() == 3.5
    assert model.get_buffer("0.num_batches_tracked").item() == 1


def test_a_buffer_that_changes_its_shape_is_named() -> None:
    class Grows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))
            self.cache: Tensor
            self.register_buffer("cache", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            self.cache = torch.cat([self.cache, self.cache])
            return self.weight * x

    task = Task(Grows(), TensorDataset(torch.ones(4)), lambda model, batch: model(batch[0]).mean())
    with pytest.raises(UserCodeError, match=r"buffer 'cache' was .* shape \(1,\) and has become .* shape \(2,\)"):
        PartitionGradients(task, ModelState(task.model, own=True), 1, 0).compute(0, 0)


class Branches(nn.Module):
    """An embedding with sparse gradients, and a branch that only some batches take."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 2, sparse=True)
        self.rare = nn.Linear(2, 1)
        self.head = nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.table(x)
        out: Tensor = (self.rare if bool((x == 0).any()) else self.head)(hidden)
        return out


def test_parameters_without_gradient_are_told() -> None:
    task = Task(fresh(Branches), TensorDataset(torch.tensor([0, 1, 3, 4])), lambda m, batch: m(batch[0]).mean())
    state = ModelState(task.model, own=True)
    gradients = PartitionGradients(task, state, 2, 0)
    assert state.names == ["table.weight", "rare.weight", "rare.bias", "head.weight", "head.bias"]
    first = gradients.compute(0, 0)
    assert first.used.tolist() == [True, True, True, False, False]
    assert first.gradient[-3:].tolist() == [0, 0, 0]
    assert first.gradient[12].item() == 0.5  # of rare.bias
    second = gradients.compute(0, 1)
    assert second.used.tolist() == [True, False, False, True, True]
    assert np.flatnonzero(second.gradient[:10]).tolist() == [6, 7, 8, 9]


def test_training_mode_is_set_but_a_part_in_eval_mode_stays_so() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.Dropout(), nn.BatchNorm1d(1))
    task = Task(model, TensorDataset(torch.ones(4, 1)), lambda model, batch: model(batch[0]).mean())
    gradients = PartitionGradients(task, ModelState(model, own=True), 1, 0)
    model.eval()
    gradients.compute(0, 0)
    assert model.training
    assert model[2].training
    model[2].eval()
    gradients.compute(1, 0)
    assert not model[2].training


# --- the user's errors ------------------------------------------------------------------------------------------------


class Fails(Noisy):
    def __getitem__(self, index: int) -> Tensor:
        if index == 17:
            raise OSError("unreadable image")
        return super().__getitem__(index)


def test_an_error_of_the_data_set_names_the_sample() -> None:
    task = Task(fresh(Rich), Fails(), square, batch_size=10)
    gradients = PartitionGradients(task, ModelState(fresh(Rich), own=True), 4, 0)
    with pytest.raises(UserCodeError) as caught:
        gradients.compute(3, 1)
    error = caught.value
    assert (error.step, error.partition) == (3, 1)
    assert error.indices.tolist() == list(range(10, 20))
    assert error.text.startswith("OSError: unreadable image (step 3, partition 1, sample 17)\n")
    assert "in __getitem__" in error.text
    assert isinstance(error.__cause__, OSError)


def failing(kind: str) -> Callable[[nn.Module, Tensor], Any]:
    def loss_fn(model: nn.Module, batch: Tensor) -> Any:
        out = model(batch)
        if kind == "raises":
            raise KeyError("boxes")
        if kind == "nan":
            return out.mean() * torch.nan
        if kind == "gradient":
            # the square root's derivative at 0 is infinite, and infinity times 0 is NaN
            return out.mean() + (0 * model.get_parameter("second.bias")).abs().sum().sqrt()
        if kind == "type":
            return 3.0
        return out.mean().detach()

    return loss_fn


@pytest.mark.parametrize(
    ("kind", "first"),
    [
        ("raises", "KeyError: 'boxes' (step 2, partition 1, samples ["),
        ("nan", "the loss is nan (step 2, partition 1, samples ["),
        ("gradient", "the gradient of parameter 'second.bias' is not finite (nan) (step 2, partition 1, samples ["),
        (
            "type",
            "ValueError: loss_fn must be a 0-dim tensor or a dict of them, found float (step 2, partition 1, samples [",
        ),
        ("detached", "RuntimeError: element 0 of tensors does not require grad"),
    ],
)
def test_an_error_of_model_or_loss_leaves_nothing_behind(kind: str, first: str) -> None:
    model = fresh(Rich)
    state = ModelState(model, own=True)
    good = PartitionGradients(Task(model, Noisy(), square, batch_size=4), state, 4, 0)
    bad = PartitionGradients(Task(model, Noisy(), failing(kind), batch_size=4), state, 4, 0)
    expected = bits(good.compute(2, 1))
    with pytest.raises(UserCodeError) as caught:
        bad.compute(2, 1)
    line, _, trace = caught.value.text.partition("\n")
    assert line.startswith(first)
    assert bool(trace) == (kind in {"raises", "type", "detached"})
    assert bits(good.compute(2, 1)) == expected


def test_refuses_a_negative_seed() -> None:
    task = rich_task()
    with pytest.raises(ValueError, match="seed must be an integer >= 0, found -1"):
        PartitionGradients(task, ModelState(task.model), 2, -1)


# --- the embedded task ------------------------------------------------------------------------------------------------


def test_digits_are_learnt_in_sixty_steps() -> None:
    task = digits.build()
    master, worker = ModelState(task.model), ModelState(copy.deepcopy(task.model), own=True)
    gradients = PartitionGradients(task, worker, 16, 0)
    optimizer = torch.optim.SGD(task.model.parameters(), lr=0.1, momentum=0.8)
    for step in range(60):
        worker.load(master.snapshot())
        g = np.zeros(master.layout.d, np.float32)
        for j in range(16):
            g += gradients.compute(step, j).gradient
        master.set_grad(g)
        optimizer.step()
    assert task.evaluate is not None
    assert task.evaluate(task.model)["test_accuracy"] >= 0.97
