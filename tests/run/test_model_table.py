"""Real processes give what one plain PyTorch process gives: the table of models of the issue."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from gcdist.model.batches import Batches
from tests.conftest import Start, free_port
from tests.run.zoo import ZOO, build, unfreeze

HERE = Path(__file__).parent
STEPS, PARTITIONS, SEED = 20, 5, 7  # as in table_script.py
SHARE = 1 / PARTITIONS  # all partitions have equally many samples


def trained_by_hand(name: str) -> tuple[dict[str, Tensor], list[float]]:
    """Plain PyTorch: gradients accumulated over the partitions, float buffers averaged, counters at their largest."""
    task = build(name)
    model = task.model.train()
    batches = Batches(task, PARTITIONS, SEED)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.8)
    losses = []
    for step in range(STEPS):
        unfreeze(model, step)
        optimizer.zero_grad()
        before = {key: buffer.clone() for key, buffer in model.named_buffers()}
        after: list[dict[str, Tensor]] = []
        total = 0.0
        for j in range(PARTITIONS):
            for key, buffer in model.named_buffers():
                buffer.copy_(before[key])
            out = task.loss_fn(model, batches.batch(step, j).batch)
            loss = sum(out.values(), torch.zeros(())) if isinstance(out, dict) else out
            assert isinstance(loss, Tensor)
            torch.autograd.backward(SHARE * loss)
            total += SHARE * loss.item()
            after.append({key: buffer.clone() for key, buffer in model.named_buffers()})
        for key, buffer in model.named_buffers():
            each = torch.stack([buffers[key] for buffers in after])
            buffer.copy_(each.mean(0) if buffer.is_floating_point() else each.amax(0))
        losses.append(total)
        optimizer.step()
    return model.state_dict(), losses


@pytest.mark.timeout(300)
def test_every_model_of_the_table_is_trained_as_by_one_process(tmp_path: Path, start: Start) -> None:
    ports = [str(free_port()) for _ in ZOO]
    env = {"PYTHONSAFEPATH": "", "PYTHONPATH": str(HERE.parents[1])}
    cluster = start([str(HERE / "table_script.py"), str(tmp_path), *ports], ranks=4, env=env)
    expected = {name: trained_by_hand(name) for name in ZOO}  # while the processes start
    assert cluster.wait(200.0) == [0] * 4, cluster.output(0) + cluster.output(1)
    for name, (state, losses) in expected.items():
        assert losses[-1] < 0.95 * losses[0], f"{name} does not learn"
        found = torch.load(tmp_path / f"{name}.pt")
        assert list(found) == list(state)
        for key, value in state.items():
            difference = (found[key] - value).abs().max().item()
            torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-5, msg=f"{name}: {key} by {difference}")
