"""The sbatch file on a real SLURM of one node, which this test starts: a worker that dies, the notice, the next start."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gcdist.observe import read_lines, read_metrics

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
BATCH = Path(__file__).parents[2] / "launch" / "slurm" / "gcdist.sbatch"
LIMIT, STEPS = 180.0, 150
CONFIG = f"""
steps = {STEPS}
out = "runs"
[task]
name = "digits"
[task.options]
model = "mlp"
[inject]
model = "shifted-exponential"
shift = 0.1
mean = 0.02
[straggler]
deadline = 0.3
[checkpoint]
every = 10
"""
SLURM_CONF = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    """One node, with all files in ``folder``; its daemons stay in the foreground, as children."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._daemons: list[subprocess.Popen[bytes]] = []
        python = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self._env = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": python, "PYTHONSAFEPATH": "1"}

    def __enter__(self) -> Slurm:
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(64))
        key.chmod(0o400)
        with socket.socket() as one, socket.socket() as two:
            for probe in (one, two):
                probe.bind(("127.0.0.1", 0))
            ports = [probe.getsockname()[1] for probe in (one, two)]
        host = os.uname().nodename.partition(".")[0]
        (self.folder / "slurm.conf").write_text(SLURM_CONF.format(host=host, folder=self.folder, ports=ports))
        self._daemon("munged", "--foreground", "--force", f"--socket={self.folder}/munge.socket", f"--key-file={key}",
                     *(f"--{kind}-file={self.folder}/munged.{kind}" for kind in ("pid", "log", "seed")))  # fmt: skip
        self.until((self.folder / "munge.socket").exists, "munge's socket")
        conf = str(self.folder / "slurm.conf")
        self._daemon("slurmctld", "-D", "-c", "-f", conf)
        self._daemon("slurmd", "-D", "-f", conf)
        self.until(lambda: "idle" in self.said("sinfo", "--noheader", "--format=%t"), "idle node")
        return self

    def __exit__(self, *about: object) -> None:
        with contextlib.suppress(subprocess.SubprocessError):
            self.said("scancel", "--signal=KILL", "--full", "--user=root")
            self.said("scancel", "--user=root")
            self.until(lambda: not self.said("squeue", "--noheader").strip(), "empty queue")
        for daemon in reversed(self._daemons):
            daemon.terminate()
            daemon.wait(LIMIT)

    def said(self, *command: str) -> str:
        done = subprocess.run(
            command, capture_output=True, text=True, env=self._env, cwd=self.folder, check=False, timeout=60
        )
        return done.stdout

    def until(self, reached: Callable[[], bool], what: str) -> None:
        give_up = time.monotonic() + LIMIT
        while not reached():
            if time.monotonic() > give_up:
                logs = [path.read_text(errors="replace") for path in sorted(self.folder.glob("*.log"))]
                pytest.fail(f"no {what}:\n" + "\n---\n".join(text[-3000:] for text in logs))
            time.sleep(0.2)

    def _daemon(self, *command: str) -> None:
        with (self.folder / f"{command[0]}.out").open("wb") as out:
            self._daemons.append(subprocess.Popen(command, stdout=out, stderr=out, env=self._env))


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[Slurm]:
    needed = ("munged", "slurmctld", "slurmd", "sbatch", "srun")
    missing = [name for name in needed if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"a SLURM of our own needs root and munge, slurmctld, slurmd, slurm-client; missing: {missing}")
    with Slurm(tmp_path) as running:
        yield running


def worker_process(rank: int, folder: Path) -> int:
    """The process of a rank in this folder."""
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if (
                f"RANK={rank}".encode() in environ
                and b"train" in words
                and os.readlink(f"/proc/{pid}/cwd") == str(folder)
            ) and Path(words[0].decode()).name.startswith("python"):
                return int(pid)
    pytest.fail(f"no process of rank {rank}")


def test_a_job_survives_a_worker_s_death_and_a_notice_and_finishes(slurm: Slurm) -> None:
    folder = slurm.folder
    (folder / "my.toml").write_text(CONFIG)
    run, log = folder / "runs" / "run", folder / "job.log"
    command = [sys.executable, "-m", "gcdist", "train", "my.toml", "--resume", "runs/run"]
    options = ["--parsable", "--ntasks=3", "--mem-per-cpu=0", f"--output={log}"]
    job = slurm.said("sbatch", *options, str(BATCH), *command).strip()
    assert job.isdecimal()

    def steps() -> int:
        return len(read_metrics(run)) if (run / "metrics.jsonl").exists() else 0

    slurm.until(lambda: steps() >= 15, "step 15")
    os.kill(worker_process(2, folder), signal.SIGKILL)
    slurm.until(lambda: (run / "events.jsonl").read_text().count("worker 2 joined") == 2, "worker 2 again")
    slurm.said("scancel", "--signal=TERM", "--batch", job)  # what --signal=B:TERM@120 does when the time is nearly over
    slurm.until(lambda: "queueing up again" in log.read_text(), "requeue")
    before = steps()
    slurm.until(lambda: "PENDING" in slurm.said("scontrol", "show", "job", job), "pending job")
    # else it waits two minutes; a start in the second of the cancellation is refused by slurmd as cancelled
    slurm.said("scontrol", "update", f"jobid={job}", "StartTime=now+5")
    slurm.until(lambda: (run / "summary.json").exists(), "end of the run")
    slurm.until(lambda: "COMPLETED" in slurm.said("scontrol", "show", "job", job), "end of the job")

    said = log.read_text()
    assert f"gcdist.sbatch: job {job}, start 1: master on" in said
    assert "gcdist.sbatch: worker 2 ended with exit code 137; starting it again in 1 s" in said
    assert f"gcdist.sbatch: job {job}, start 2: master on" in said
    assert "the master ended with exit code 0" in said
    assert [line["step"] for line in read_metrics(run)] == list(range(STEPS))
    [resumed] = [line["text"] for line in read_lines(run / "events.jsonl") if "going on from" in line["text"]]
    assert int(resumed.split("step-")[1][:8]) == before
