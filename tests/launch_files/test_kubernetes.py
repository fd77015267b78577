"""The manifests: their fields, what they refer to, and that the commands in them make a run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gcdist.config import load_config
from tests.conftest import free_port
from tests.launch_files.manifests import KUBERNETES, built, templates

BOTH = pytest.mark.parametrize("name", ["base", "pytorchjob"])


@BOTH
def test_every_reference_leads_somewhere(name: str) -> None:
    objects = built(name)
    names = {(each["kind"], each["metadata"]["name"]) for each in objects}
    for _, _, template in templates(objects):
        spec = template["spec"]
        [container] = spec["containers"]
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
        assert ("ConfigMap", volumes["config"]["configMap"]["name"]) in names
        if "runs" in volumes:
            assert ("PersistentVolumeClaim", volumes["runs"]["persistentVolumeClaim"]["claimName"]) in names
        if "subdomain" in spec:
            assert ("Service", spec["subdomain"]) in names
    labels = [(role, template["metadata"]["labels"]) for role, _, template in templates(objects)]
    for each in objects:
        if each["kind"] in ("Service", "PodDisruptionBudget"):
            spec = each["spec"]
            wanted = spec["selector"] if each["kind"] == "Service" else spec["selector"]["matchLabels"]
            assert any(wanted.items() <= has.items() for _, has in labels), each["metadata"]["name"]


@BOTH
def test_pods_are_not_root_write_nowhere_and_are_watched(name: str) -> None:
    found = {role: template["spec"] for role, _, template in templates(built(name))}
    assert set(found) == {"master", "worker"}
    for spec in found.values():
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["runAsUser"] == 10001
        [container] = spec["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert set(container["resources"]["requests"]) == {"cpu", "memory"}
        env = {each["name"]: each for each in container["env"]}
        assert env["GCDIST_BEAT_FILE"]["value"] == "/tmp/beat"
        assert env["GCDIST_SECRET"]["valueFrom"]["secretKeyRef"]["optional"]
        assert {"startupProbe", "livenessProbe"} <= set(container)
    assert [mount["mountPath"] for mount in found["master"]["containers"][0]["volumeMounts"]][-1] == "/runs"


def test_the_number_of_workers_is_one_number() -> None:
    objects = built("base")
    [workers] = [
        each["spec"] for each in objects if each["metadata"]["name"] == "gcdist-worker" and each["kind"] == "Job"
    ]
    assert workers["completions"] == workers["parallelism"]
    for _, _, template in templates(objects):
        env = {each["name"]: each.get("value") for each in template["spec"]["containers"][0]["env"]}
        assert env["WORKERS"] == str(workers["parallelism"])
        assert env["MASTER_PORT"] == "29500"


def test_both_variants_share_what_they_share() -> None:
    for file in ("my.toml", "runs.yaml", "disruption.yaml"):
        assert (KUBERNETES / "base" / file).read_text() == (KUBERNETES / "pytorchjob" / file).read_text()
    load_config(KUBERNETES / "base" / "my.toml")


@BOTH
def test_the_fields_are_those_of_the_api(name: str) -> None:
    client = pytest.importorskip(
        "kubernetes.client", reason="the Kubernetes client has the API's fields; it is not installed"
    )
    for each in built(name):
        group, _, version = each["apiVersion"].rpartition("/")
        if group == "kubeflow.org":
            continue
        prefix = "" if not group else group.split(".")[0].capitalize()
        model = getattr(client, f"{version.capitalize()}{each['kind']}", None) or getattr(
            client, f"{prefix}{each['kind']}"
        )
        _check(client, model, each, each["kind"])


def _check(client: Any, model: Any, value: dict[str, Any], where: str) -> None:
    """Every field is known to the API's model, of its type, and none that it requires is missing."""
    fields = {json_name: (name, model.openapi_types[name]) for name, json_name in model.attribute_map.items()}
    for key, inner in value.items():
        assert key in fields, f"{where}.{key}: unknown field"
        kind = fields[key][1]
        _of_kind(client, kind, inner, f"{where}.{key}")
    given = {fields[key][0]: inner for key, inner in value.items()}
    model(**given)  # raises for what is required and missing


def _of_kind(client: Any, kind: str, value: Any, where: str) -> None:
    many = re.fullmatch(r"list\[(.*)\]", kind)
    table = re.fullmatch(r"dict\(str, (.*)\)|dict\[str, (.*)\]", kind)
    if many:
        assert isinstance(value, list), where
        for i, each in enumerate(value):
            _of_kind(client, many[1], each, f"{where}[{i}]")
    elif table:
        assert isinstance(value, dict), where
        for key, each in value.items():
            _of_kind(client, table[1] or table[2], each, f"{where}.{key}")
    elif kind in ("str", "int", "bool"):
        assert type(value).__name__ == kind, f"{where}: {value!r} is no {kind}"
    elif kind != "object":
        _check(client, getattr(client, kind), value, where)


def test_the_commands_of_the_jobs_make_a_run(tmp_path: Path) -> None:
    """The very commands of the two Jobs, with their variables, as processes of this machine."""
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "gcdist").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m gcdist "$@"\n')
    (bin_ / "gcdist").chmod(0o755)
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "my.toml").write_text('steps = 5\n[task]\nname = "digits"\n[task.options]\nmodel = "mlp"\n')
    port, running = str(free_port()), []
    for role, _, template in templates(built("base")):
        [container] = template["spec"]["containers"]
        told = {each["name"]: each["value"] for each in container["env"] if "value" in each}
        assert container["command"] == ["sh", "-ec"]
        [text] = container["args"]
        text = text.replace("/config/", f"{tmp_path}/config/").replace("/runs", f"{tmp_path}/runs")
        for index in range(1 if role == "master" else 2):
            env = {**os.environ, **told, "PATH": f"{bin_}:{os.environ['PATH']}", "PYTHONSAFEPATH": "1"}
            env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORKERS": "2", "JOB_COMPLETION_INDEX": str(index)}
            env["GCDIST_BEAT_FILE"] = str(tmp_path / f"beat-{role}-{index}")
            running.append(subprocess.Popen(["sh", "-ec", text], env=env, cwd=tmp_path))
    try:
        assert [process.wait(150.0) for process in running] == [0, 0, 0]
    finally:
        for process in running:
            process.kill()
            process.wait()
    assert (tmp_path / "runs" / "run" / "summary.json").exists()
    assert len(list(tmp_path.glob("beat-*"))) == 3
