from __future__ import annotations

import pytest

from gcdist.config import Config, ConfigError, shared_settings


def test_the_downlink_is_shared_and_the_device_is_each_worker_s_own() -> None:
    settings = shared_settings(Config(compute={"device": "auto"}, quantizer={"downlink": "bfloat16"}))
    assert 'quantizer.downlink="bfloat16"' in settings.splitlines()
    assert "device" not in settings
    assert settings != shared_settings(Config())


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"compute": {"device": "gpu"}}, r"compute\.device: found \"gpu\"; .*cpu.*cuda.*auto"),
        ({"quantizer": {"downlink": "float16"}}, r"quantizer\.downlink: found \"float16\"; .*float32.*bfloat16"),
    ],
)
def test_other_values_are_one_clear_line(values: dict[str, object], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        Config(**values)
