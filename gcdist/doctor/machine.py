"""This machine: memory, descriptors, threads, the kernels' cache, the secret."""

from __future__ import annotations

import os
import resource
import shutil
from dataclasses import dataclass
from pathlib import Path

from gcdist.doctor.finding import Finding

PROCESS_BYTES = 400 << 20  # memory of one process: torch, numba and a small model
SHARED_BYTES = 256 << 20
LINK_DESCRIPTORS = 5  # descriptors that one link takes at most
OWN_DESCRIPTORS = 100
SECRET_BYTES = 16


@dataclass(frozen=True, slots=True)
class Machine:
    """Values read by `measure`; bytes. None: unknown on this system."""

    available: int | None
    shared: int | None  # free in /dev/shm
    descriptors: int
    cores: int
    threads: str | None  # OMP_NUM_THREADS
    processes: int  # of a run, on this machine
    cache: str | None  # folder of the compiled kernels, if it can be written
    kernels: int  # files in it
    secret: int | None  # its length


def measure(secret: str | None) -> Machine:
    """Read this machine."""
    from gcdist.quantize.jit import cache_folder  # numba: a second

    cache = cache_folder()
    return Machine(
        _available(),
        shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else None,
        resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        len(os.sched_getaffinity(0)),
        os.environ.get("OMP_NUM_THREADS"),
        int(os.environ.get("LOCAL_WORLD_SIZE", "1") or 1),
        cache,
        0 if cache is None else sum(1 for _ in Path(cache).rglob("*.nbc")),
        None if secret is None else len(secret),
    )


def _available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None


def judge(seen: Machine, alone: bool) -> list[Finding]:
    """Findings; ``alone``: no other machine takes part."""
    return [_memory(seen), _shared(seen), _descriptors(seen), _threads(seen), _cache(seen), _secret(seen, alone)]


def _memory(seen: Machine) -> Finding:
    if seen.available is None:
        return Finding("memory", "ok", "this system does not say how much is free")
    text, need = f"{_size(seen.available)} free", seen.processes * PROCESS_BYTES
    if seen.available >= 2 * need:
        return Finding("memory", "ok", text)
    text += (
        f"; {seen.processes} process{'es need' * (seen.processes > 1) or ' needs'} about {_size(need)} and the model"
    )
    return Finding("memory", "fail" if seen.available < need else "warn", text, "start fewer workers on this machine")


def _shared(seen: Machine) -> Finding:
    if seen.shared is None or seen.shared >= SHARED_BYTES:
        text = "none" if seen.shared is None else f"{_size(seen.shared)} free"
        return Finding("/dev/shm", "ok", text)
    text = f"{_size(seen.shared)} free: a DataLoader with processes of its own fails with a bus error"
    return Finding("/dev/shm", "warn", text, "docker run --shm-size=1g, or mount -o remount,size=1g /dev/shm")


def _descriptors(seen: Machine) -> Finding:
    if seen.descriptors == resource.RLIM_INFINITY:
        return Finding("descriptors", "ok", "no limit")
    links = max(0, seen.descriptors - OWN_DESCRIPTORS) // LINK_DESCRIPTORS
    text = f"limit {seen.descriptors}: a master of {links} workers at least"
    return Finding("descriptors", *(("ok", text) if links >= 100 else ("warn", text, "ulimit -n 65536")))


def _threads(seen: Machine) -> Finding:
    text = f"{seen.cores} cores, OMP_NUM_THREADS {'not set' if seen.threads is None else seen.threads}"
    if seen.threads is None:
        if seen.processes == 1:
            return Finding("threads", "ok", f"{text}; workers take cluster.threads (1)")
        return Finding("threads", "warn", f"{text}: {seen.processes} processes share them", "export OMP_NUM_THREADS=1")
    if not seen.threads.isdecimal():
        return Finding("threads", "warn", f"{text}: not a number", "export OMP_NUM_THREADS=1")
    if int(seen.threads) * seen.processes > seen.cores:
        text += f", {seen.processes} processes: more threads than cores"
        return Finding("threads", "warn", text, f"export OMP_NUM_THREADS={max(1, seen.cores // seen.processes)}")
    return Finding("threads", "ok", text)


def _cache(seen: Machine) -> Finding:
    if seen.cache is None:
        text = "cannot be written: every process compiles its kernels anew, seconds at each start"
        return Finding("kernel cache", "warn", text, "export NUMBA_CACHE_DIR=/a/folder/that/can/be/written")
    state = f"warm, {seen.kernels} kernels" if seen.kernels else "cold: the first run compiles for some seconds"
    return Finding("kernel cache", "ok", f"{seen.cache}: {state}")


def _secret(seen: Machine, alone: bool) -> Finding:
    fix = "export GCDIST_SECRET=$(openssl rand -hex 32), the same on all machines (docs/security.md)"
    if seen.secret is None:
        text = "none is set" + ("" if alone else ": whoever reaches the master can join the run")
        return Finding("secret", "ok" if alone else "warn", text, "" if alone else fix)
    if seen.secret < SECRET_BYTES:
        return Finding("secret", "warn", f"{seen.secret} characters: it can be guessed", fix)
    return Finding("secret", "ok", "set")


def _size(amount: float) -> str:
    """Bytes for people.

    >>> _size(400 << 20), _size(3 << 30)
    ('400 MB', '3.0 GB')
    """
    return f"{amount / (1 << 30):.1f} GB" if amount >= 1 << 30 else f"{amount / (1 << 20):.0f} MB"
