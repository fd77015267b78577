"""The plane that the links of a run travel on, and its master's address: from the settings and the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from gcdist.config import ClusterConfig, ConfigError
from gcdist.transport import Credentials, CredentialsError, GlooPlane, Plane, StoreSource, TlsPlane, master_place


def make_plane(cluster: ClusterConfig, rank: int, env: Mapping[str, str] | None = None) -> Plane:
    """The plane for the process of this rank; ``env`` (os.environ) says where the master is.

    ConfigError for a secret or certificates that cannot be used, JoinError for an environment that names no place.
    """
    env = os.environ if env is None else env
    secret = cluster.shared_secret()
    if cluster.transport == "gloo":
        return GlooPlane(StoreSource.from_env(env), secret)
    return TlsPlane(*master_place(env, cluster.port), credentials(cluster, rank))


def credentials(cluster: ClusterConfig, rank: int) -> Credentials:
    """What the process of this rank shows on the TLS plane; ConfigError.

    In the paths of the settings ``{name}`` stands for "master" or "workerR", so that one file of settings does for all.
    """
    name = "master" if rank == 0 else f"worker{rank}"
    role: Literal["master", "worker"] = "master" if rank == 0 else "worker"
    if cluster.certificate is not None and cluster.key is not None and cluster.authority is not None:
        try:
            return Credentials.from_files(
                _named(cluster.certificate, name),
                _named(cluster.key, name),
                cluster.authority,
                role,
                cluster.master_name,
            )
        except CredentialsError as error:
            raise ConfigError(str(error)) from None
    secret = cluster.shared_secret()
    if secret is None:
        raise ConfigError(
            'cluster.transport: "tls" needs a shared secret (cluster.secret_file, or GCDIST_SECRET in the environment) or '
            "cluster.certificate, key and authority (gcdist secure init makes them)"
        )
    return Credentials.from_secret(secret, role)


def _named(path: Path, name: str) -> Path:
    return Path(str(path).replace("{name}", name))
