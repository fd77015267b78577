"""The settings of the data: epochs in place of steps, who holds what, what both ends share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gcdist.config import Config, ConfigError, dump_config, load_config, shared_settings


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"steps": 5, "epochs": 2}, r"epochs: found 2; steps = 5 is given, and only one of them can be"),
        ({"epochs": 0}, r"epochs: .*0.*at least 1|epochs: .*found 0"),
        ({"data": {"sampling": "epoch"}}, r"data\.sampling: .*epoch"),
        ({"data": {"prefetch": -1}}, r"data\.prefetch: .*-1"),
        ({"data": {"partition_by": ""}}, r"data\.partition_by: "),
        ({"data": {"holds": [[0], []]}}, r"data\.holds: .*of worker 2 should be a list of one or more partitions"),
        ({"data": {"holds": [[0], [1, 2, 1]]}}, r"data\.holds: .*of worker 2 should name partition 1 once"),
        ({"data": {"holds": [[0], [-1]]}}, r"data\.holds: .*of worker 2"),
        ({"data": {"holds": [0, 1]}}, r"data\.holds: .*of worker 1"),
        (
            {"data": {"holds": [[0]]}, "cluster": {"workers": 2}},
            r"data\.holds: found a list of 1; cluster\.workers is 2",
        ),
        ({"data": {"holds": [[4]]}, "code": {"partitions": 4}}, r"data\.holds: found partition 4; .* should be 0 to 3"),
    ],
)
def test_a_mistake_is_one_clear_line(values: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line) as caught:
        Config(**values)
    assert "\n" not in str(caught.value)


def test_holders_are_checked_once_the_workers_are_known() -> None:
    settings = Config(data={"holds": [[0], [4]]})
    with pytest.raises(ConfigError, match=r"data\.holds: found partition 4; code\.partitions is 4"):
        settings.resolved(2)
    with pytest.raises(ConfigError, match=r"data\.holds: found a list of 2; cluster\.workers is 3"):
        settings.resolved(3)


def test_epochs_become_steps(tmp_path: Path) -> None:
    settings = Config(epochs=3).resolved(4)
    assert settings.epochs == 3
    path = tmp_path / "config.toml"
    path.write_text(dump_config(settings))
    assert load_config(path) == settings
    known = settings.with_steps(7)
    assert (known.epochs, known.steps) == (None, 21)
    path.write_text(dump_config(known))
    assert load_config(path) == known
    assert Config(steps=5).with_steps(7).steps == 5
    with pytest.raises(ConfigError, match="epochs: found 2; steps = 21 is given"):
        load_config(path, ["epochs=2"])


def test_both_ends_share_how_the_data_is_cut_and_sampled() -> None:
    def shared(**data: object) -> str:
        return shared_settings(Config(data=data))

    assert shared() == shared(prefetch=3) == shared(holds=[[0, 1], [2]])
    assert len({shared(), shared(sampling="epochs"), shared(partition_by="labels")}) == 3
