"""Which tests run one after the other under ``pytest -n``."""

from __future__ import annotations

from tests.conftest import HERE, group_of


def test_tests_that_start_processes_are_in_one_group() -> None:
    here = HERE.name
    for file in (
        "transport/test_peers.py",
        "run/test_real_processes.py",
        "launcher/test_launch_ssh.py",
        "test_ddp_example.py",
    ):
        assert group_of(f"{here}/{file}::test_a") == "processes", file
    assert group_of(f"{here}/report/test_page.py::test_a") == f"{here}/report/test_page.py"
    one = f"{here}/coding/test_bits.py::test_a[1]"
    assert group_of(one) == one
