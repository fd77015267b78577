"""Tables of [[faults]]: read, written and compared like all settings; a mistake is one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gcdist.config import Config, ConfigError, FaultConfig, dump_config, load_config, shared_settings

TABLES = """
[[faults]]
kind = "stop"
worker = 2
step = 50
seconds = 3.0
[[faults]]
kind = "corrupt"
every = 30.0
what = "nan"
"""


def test_tables_are_read_written_and_shared(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(TABLES)
    config = load_config(path)
    assert config.faults == (
        FaultConfig(kind="stop", worker=2, step=50, seconds=3.0),
        FaultConfig(kind="corrupt", every=30.0, what="nan"),
    )
    path.write_text(dump_config(config))
    assert load_config(path) == config == Config(faults=[fault.model_dump() for fault in config.faults])
    assert config.resolved(3).faults == config.faults
    assert shared_settings(config) != shared_settings(Config())
    assert load_config(path, ["faults=[]"]) == Config()


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ({"kind": "sotp"}, r"faults\[0\]\.kind: found \"sotp\"; should be 'kill', 'stop'"),
        ({"worker": 1}, r"faults\[0\]\.kind"),
        ({"kind": "stop", "step": 1}, r"faults\[0\]\.seconds: missing; \"stop\" needs it"),
        ({"kind": "slow", "seconds": 1.0, "every": 9.0}, r"faults\[0\]\.rate: missing; \"slow\" needs it"),
        ({"kind": "kill", "rate": 1.0}, r"faults\[0\]\.rate: found 1.0; \"kill\" does not use it"),
        (
            {"kind": "cut", "seconds": 1.0, "worker": 0},
            r"faults\[0\]\.worker: found 0; .*kill and stop, not by \"cut\"",
        ),
        ({"kind": "kill", "step": 1, "every": 2.0}, r"faults\[0\]\.every: found 2.0; step = 1 is given"),
        ({"kind": "kill", "sept": 1}, r"faults\[0\]\.sept: unknown key; did you mean \"step\"\?"),
        ({"kind": "corrupt", "what": "all"}, r"faults\[0\]\.what: found \"all\""),
        ({"kind": "kill", "worker": 3}, r"faults\[0\]\.worker: found 3; cluster.workers is 2"),
    ],
)
def test_a_mistake_is_one_line(fault: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line) as error:
        Config(faults=[fault], cluster={"workers": 2})
    assert len(str(error.value).splitlines()) == 1


def test_a_table_may_only_allow_a_kind_to_scripts() -> None:
    assert Config(faults=[{"kind": "cut"}]).faults[0].seconds is None


def test_faults_that_are_no_list() -> None:
    with pytest.raises(ConfigError, match="faults: found"):
        Config(faults={"kind": "kill"})
