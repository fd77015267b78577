from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from gcdist.tasks import digits


def test_the_file_holds_the_original_images() -> None:
    images, labels = digits.arrays()
    assert images.shape == (1797, 1, 8, 8)
    assert images.dtype == np.float32
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    pixels = images[0, 0] * digits.PIXEL_STD + digits.PIXEL_MEAN
    np.testing.assert_allclose(pixels[0], [0, 0, 5, 13, 9, 1, 0, 0], atol=1e-5)  # its first line
    assert abs(images.mean()) < 1e-3
    assert abs(images.std() - 1) < 1e-3


def test_build_is_a_function_of_the_seed_alone() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    one = digits.build(seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(8)
    two, other = digits.build(seed=3), digits.build(seed=4)
    for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(one.dataset.images, two.dataset.images)
    assert one.dataset.labels == two.dataset.labels
    assert one.dataset.labels != other.dataset.labels


def test_train_and_test_are_disjoint_and_complete() -> None:
    images, _ = digits.arrays()
    task = digits.build(train_fraction=0.75)
    assert len(task.dataset) == 1348
    train = {image.numpy().tobytes() for image in task.dataset.images}
    assert len({image.tobytes() for image in images} - train) == 1797 - 1348  # no two images are equal


@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
def test_label_sorted_makes_partitions_differ(fraction: float) -> None:
    task = digits.build(label_sorted=fraction)
    labels = np.array(task.dataset.labels)
    shares = [np.bincount(labels[part], minlength=10).max() / len(part) for part in task.partitions(10)]
    # the commonest label has about fraction * (0.5 to 1) + (1 - fraction) * 0.1 of a block of 144
    low, high = {0.0: (0.1, 0.2), 0.5: (0.3, 0.65), 1.0: (0.8, 1.0)}[fraction]
    assert low < np.mean(shares) < high
    assert sorted(task.dataset.labels) == sorted(digits.build(label_sorted=0.0).dataset.labels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "rnn"}, "model must be one of cnn, mlp, found 'rnn'"),
        ({"label_sorted": 1.5}, "label_sorted must be between 0 and 1, found 1.5"),
        ({"train_fraction": 1.0}, "train_fraction must leave samples to train and to test on, found 1.0"),
    ],
)
def test_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        digits.build(**options)


def test_evaluate_keeps_the_mode() -> None:
    task = digits.build()
    assert task.evaluate is not None
    metrics = task.evaluate(task.model)
    assert task.model.training
    assert metrics.keys() == {"test_accuracy", "test_loss"}
    assert metrics["test_accuracy"] < 0.4  # untrained
    assert 2 < metrics["test_loss"] < 3
