"""The master as a process by itself, for trainers that look for other processes in the environment."""

from __future__ import annotations

import os
from typing import Any

import gcdist

# what launchers tell a process about its place; trainers take it for a process group that they should join
PLACES = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "NODE_RANK"),
    *("ROLE_NAME", "ROLE_RANK", "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    *("SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "JSM_NAMESPACE_RANK"),
    *("PMI_SIZE", "PMI_RANK", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),
)
PREFIXES = ("TORCHELASTIC_", "OMPI_COMM_WORLD_")


def connect(task: gcdist.Task, config: gcdist.Config | None = None, **more: Any) -> gcdist.Cluster:
    """`gcdist.connect`; afterwards the master's environment is that of a process by itself.

    Workers serve and end in here, as with `gcdist.connect`, whose arguments these are. Make the trainer and its arguments
    after this call. In `gcdist.simulate` there is nobody else, and no need for this.
    """
    cluster = gcdist.connect(task, config, **more)
    leave_the_group()
    return cluster


def leave_the_group() -> None:
    """Take out of this process's environment what its launcher has said about its place among others."""
    for name in list(os.environ):
        if name in PLACES or name.startswith(PREFIXES):
            del os.environ[name]
