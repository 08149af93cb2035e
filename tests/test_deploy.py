"""examples/deploy: what linters, schemas and our own parser say of containers, manifests, scripts
and workflows, without a daemon, a cluster or a scheduler. They were not run."""

from __future__ import annotations

import re
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import yaml

from rag_ft.cli import parse_arguments
from rag_ft.version import __version__

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "examples" / "deploy"
DOCKERFILES = sorted(DEPLOY.glob("Dockerfile*"))
SCRIPTS = sorted((DEPLOY / "slurm").glob("*.sbatch"))


PROGRAMS = Path(sysconfig.get_path("scripts"))


def check(program: str, *words: str | Path) -> None:
    """Runs a linter; a finding fails the test with what it says."""
    done = subprocess.run([PROGRAMS / program, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def manifests() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8")))


def containers() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """{name: (pod spec, container)} of all deployments."""
    specs = [m["spec"]["template"]["spec"] for m in manifests() if m["kind"] == "Deployment"]
    return {c["name"]: (spec, c) for spec in specs for c in spec["containers"]}


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_runs_as_a_user_is_checked_and_starts_a_command_that_exists(path: Path) -> None:
    text = re.sub(r"\\\n\s*", "", path.read_text(encoding="utf-8"))
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    words = [line.split()[0] for line in lines]
    assert words[0] == "FROM" and not lines[0].endswith("latest") and ":" in lines[0]
    assert "USER 10001" in lines and words.index("USER") < words.index("ENTRYPOINT")
    assert "HEALTHCHECK" in words
    [entry], [command] = (
        [yaml.safe_load(line.split(" ", 1)[1]) for line in lines if line.startswith(name)]
        for name in ("ENTRYPOINT", "CMD")
    )
    assert entry == ["rag-ft"]
    assert (ROOT / parse_arguments(command).configs[0]).is_file()


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint_finds_nothing_in_an_image(path: Path) -> None:
    check("hadolint", path)


def test_compose_file_manifests_and_workflows_follow_their_schemas() -> None:
    compose = ("check-jsonschema", "--builtin-schema", "vendor.compose-spec")
    check(*compose, DEPLOY / "compose.yaml")
    check("kubernetes-validate", "--strict", DEPLOY / "kubernetes.yaml")
    workflows = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    check("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *workflows)


def test_a_schema_rejects_what_does_not_follow_it(tmp_path: Path) -> None:
    for program, name, wrong in (
        (
            "check-jsonschema --builtin-schema vendor.compose-spec",
            "c.yaml",
            "services: {a: {imag: x}}",
        ),
        (
            "kubernetes-validate --strict",
            "k.yaml",
            "{apiVersion: v1, kind: Service, spec: {ports: 1}}",
        ),
        ("hadolint", "Dockerfile", "FROM python:latest\n"),
    ):
        (tmp_path / name).write_text(wrong, encoding="utf-8")
        with pytest.raises(AssertionError):
            check(*program.split(), tmp_path / name)


def test_the_compose_file_is_hardened_and_its_command_exists() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]
    server = services["rag-ft"]
    assert server["read_only"] and server["cap_drop"] == ["ALL"]
    assert all(port.startswith("127.0.0.1:") for port in server["ports"])
    assert parse_arguments(server["command"]).host == "0.0.0.0"
    assert (DEPLOY.parent.parent / server["build"]["dockerfile"]).is_file()


def test_the_manifests_fit_together() -> None:
    kinds = [manifest["kind"] for manifest in manifests()]
    assert kinds == ["Deployment", "Service", "Deployment", "Service", "NetworkPolicy"]
    for manifest in manifests():
        if manifest["kind"] == "Deployment":
            spec = manifest["spec"]
            labels = spec["template"]["metadata"]["labels"]
            assert spec["selector"]["matchLabels"] == labels
            assert {"app": labels["app"]} in [
                m["spec"]["selector"] for m in manifests() if m["kind"] == "Service"
            ]
    for spec, container in containers().values():
        volumes = {volume["name"] for volume in spec["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
        assert container["livenessProbe"] and container["startupProbe"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_the_pod_of_the_server_is_confined_and_starts_a_command_that_exists() -> None:
    spec, server = containers()["server"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert server["securityContext"]["readOnlyRootFilesystem"] is True
    assert server["image"] == f"rag-ft:{__version__}"
    assert parse_arguments(server["args"]).host == "0.0.0.0"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_slurm_script_is_a_script_and_calls_commands_that_exist(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True)
    text = path.read_text(encoding="utf-8")
    assert text.startswith("#!/bin/bash\n") and "set -euo pipefail" in text
    [stages] = re.findall(r"^for stage in (.*); do$", text, re.MULTILINE)
    for stage in stages.split():
        assert parse_arguments([stage, "my.yaml"]).command == stage


def test_every_file_of_the_folder_is_named_in_the_documentation() -> None:
    pages = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "docs").rglob("*.md"))
    for path in (path for path in DEPLOY.rglob("*") if path.is_file()):
        assert f"examples/deploy/{path.relative_to(DEPLOY)}" in pages, path.name
