"""The hosts file: what it says, and a clear line for each mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from gcdist.launcher import Host, HostsError, read_hosts


def test_hosts_with_all_keys(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text(
        "# our machines\n\nnode1\n"
        "alice@node2 workers=4 venv=~/gcdist/ workdir=/data/run   # the large one\n"
        "node3 python=/opt/python/bin/python env.OMP_NUM_THREADS=2 env.NOTE='a b=\"c\" $d'\n"
        "head workers=0\n"
    )
    assert read_hosts(file) == [
        Host("node1"),
        Host("alice@node2", 4, "~/gcdist/bin/python", "/data/run"),
        Host("node3", 1, "/opt/python/bin/python", "", {"OMP_NUM_THREADS": "2", "NOTE": 'a b="c" $d'}),
        Host("head", 0),
    ]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            "node1 wokers=2",
            '1: wokers: unknown; did you mean "workers"? allowed: workers, python, venv, workdir, env.NAME',
        ),
        ("node1 env.A-B=2", "1: env.A-B: unknown; allowed: workers, python, venv, workdir, env.NAME"),
        ("node1 2", "1: found '2'; should be key=value, as in workers=2"),
        ("node1 workers=-1", "1: workers: found '-1'; should be 0 or more"),
        ("node1 workers=", "1: workers: found nothing after ="),
        ("node1 workers=1 workers=2", "1: workers: given twice"),
        ("node1 venv=~/a python=python3.12", "1: python and venv: only one of them can be given"),
        ("node1 env.A='b", "1: No closing quotation"),
        ("-oProxyCommand=evil", "1: '-oProxyCommand=evil' is no host; a line is a host and then key=value words"),
        ("workers=2 node1", "1: 'workers=2' is no host; a line is a host and then key=value words"),
        ("node1\nnode1", "2: node1: listed twice; more workers of a host: workers=N"),
        ("# nothing", " no host in it; a line is for example: node1 workers=2 venv=~/gcdist"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, line: str, told: str) -> None:
    file = tmp_path / "hosts"
    file.write_text(line + "\n")
    with pytest.raises(HostsError) as error:
        read_hosts(file)
    assert str(error.value) == f"{file}:{told}"


def test_every_mistake_is_told(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text("a b\nc d\n")
    with pytest.raises(HostsError) as error:
        read_hosts(file)
    assert [line.split(": ")[0] for line in str(error.value).splitlines()] == [f"{file}:1", f"{file}:2"]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(HostsError, match="No such file or directory"):
        read_hosts(tmp_path / "hosts")
