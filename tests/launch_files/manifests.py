"""The objects of a kustomize folder: by the real one if it is here, else as far as these tests need it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

yaml: Any = pytest.importorskip("yaml")
KUBERNETES = Path(__file__).parents[2] / "launch" / "kubernetes"


def built(name: str) -> list[dict[str, Any]]:
    """The objects of ``launch/kubernetes/NAME``, by ``kubectl kustomize`` or as they stand in its files."""
    folder = KUBERNETES / name
    kubectl = shutil.which("kubectl")
    if kubectl is not None:
        done = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return list(yaml.safe_load_all(done.stdout))
    about = yaml.safe_load((folder / "kustomization.yaml").read_text())
    found = [each for file in about["resources"] for each in yaml.safe_load_all((folder / file).read_text())]
    for made in about["configMapGenerator"]:
        data = {file: (folder / file).read_text() for file in made["files"]}
        found.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": made["name"]}, "data": data})
    return found


def templates(objects: list[dict[str, Any]]) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Role, number of pods and pod template of all that starts pods."""
    for each in objects:
        spec = each.get("spec", {})
        if each["kind"] == "Job":
            yield each["metadata"]["labels"]["role"], spec.get("parallelism", 1), spec["template"]
        if each["kind"] == "PyTorchJob":
            for role, replicas in spec["pytorchReplicaSpecs"].items():
                yield role.lower(), replicas["replicas"], replicas["template"]
