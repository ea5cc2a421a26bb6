"""The image, and the services in docker-compose.yml: all but building and running them."""

from __future__ import annotations

import fnmatch
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from config import setting_names
from tests.support.deployment import run, tool, yaml_documents
from tests.support.workspace import HERE

DOCKERFILE = HERE / "Dockerfile"
COMPOSE = HERE / "docker-compose.yml"
SERVICES = {
    "collector": "market_data_collector_service.py",
    "storage": "data_storage_service.py",
    "signal": "signal_service.py",
    "trading": "trading_engine_service.py",
    "monitor": "monitor_service.py",
}


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml_documents(COMPOSE.read_text())[0]["services"]
    return found


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    run(tool("hadolint"), DOCKERFILE)


def test_the_image_is_not_root_and_ends_by_sigterm() -> None:
    last_stage = DOCKERFILE.read_text().rpartition("\nFROM ")[2]
    assert re.findall(r"^USER (.*)$", last_stage, re.MULTILINE) == ["1000:1000"]
    assert "\nSTOPSIGNAL SIGTERM\n" in last_stage


def test_the_image_has_all_that_the_services_load_and_no_settings_or_secrets(tmp_path: Path) -> None:
    patterns = [line for line in (HERE / ".dockerignore").read_text().split() if line.startswith("!")]
    kept = {pattern[1:] for pattern in patterns}
    for secret in ("variables.env", ".env", "mine.local.env", "journal", "logs", ".venv", ".git", "tests"):
        assert not any(fnmatch.fnmatch(secret, pattern) for pattern in kept), secret
    for pattern in kept:
        for source in HERE.glob(pattern):
            (tmp_path / pattern).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / source.relative_to(HERE)).symlink_to(source)
    modules = ", ".join(script.removesuffix(".py") for script in SERVICES.values())
    environment = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    command = [str(HERE / ".venv/bin/python"), "-c", f"import {modules}"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_build_gets_the_pinned_versions_or_fails(tmp_path: Path) -> None:
    # A stand-in for uv that "locks" another version, as uv would where uv.lock lags behind pyproject.toml.
    (tmp_path / "deploy").mkdir()
    (tmp_path / "deploy/lockfile_filter.py").symlink_to(HERE / "deploy/lockfile_filter.py")
    (tmp_path / "bin").mkdir()
    uv = tmp_path / "bin/uv"
    (tmp_path / "bin/python").symlink_to(HERE / ".venv/bin/python")
    pinned = '[[package]]\nname = "idna"\nversion = "3.20"\nsource = { registry = "https://x.example" }\n'
    environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}

    def build(locked: str) -> int:
        (tmp_path / "uv.lock").write_text(pinned)
        uv.write_text(f"#!/bin/sh\ncat >uv.lock <<'EOF'\n{locked}EOF\n")
        uv.chmod(0o755)
        script = HERE / "deploy/image/complete_lock.sh"
        done = subprocess.run([script], cwd=tmp_path, env=environment, capture_output=True, check=False)
        return done.returncode

    assert build(pinned.replace("x.example", "y.example")) == 0
    assert build(pinned.replace("3.20", "3.21")) == 1


def test_the_compose_file_is_one_by_the_specification() -> None:
    run(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", COMPOSE)


def test_compose_reads_its_file_with_every_profile() -> None:
    found = next((c for c in (["docker", "compose"], ["docker-compose"]) if answers(c)), None)
    if found is None:
        pytest.skip("no docker compose of version 2")
    run(*found, "-f", COMPOSE, "--env-file", HERE / "variables.env", "--profile", "*", "config", "--quiet")


def answers(compose: list[str]) -> bool:
    try:
        done = subprocess.run([*compose, "version", "--short"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return False
    return (
        done.returncode == 0 and done.stdout.lstrip("v")[:1].isdigit() and done.stdout.lstrip("v")[0] >= "2"
    )


def test_servers_start_without_a_profile_and_services_with_theirs(services: dict[str, Any]) -> None:
    assert {name for name, service in services.items() if "profiles" not in service} == {"database", "broker"}
    of_profile = {name for name, service in services.items() if service.get("profiles") == ["services"]}
    assert of_profile == set(SERVICES)
    for name, script in SERVICES.items():
        assert services[name]["command"] == [script]


def test_containers_of_ours_are_confined_restarted_probed_and_log_within_bounds(
    services: dict[str, Any],
) -> None:
    ours = [service for service in services.values() if service["image"] == "blackbird"]
    assert len(ours) >= len(SERVICES)
    for service in ours:
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["restart"] == "unless-stopped"
        assert service["healthcheck"]["test"] == ["CMD", "/app/deploy/image/alive"]
        assert service["logging"]["options"] == {"max-size": "10m", "max-file": "3"}


def test_containers_wait_for_healthy_servers_and_are_published_on_loopback_alone(
    services: dict[str, Any],
) -> None:
    for name in SERVICES:
        assert services[name]["depends_on"] == {
            server: {"condition": "service_healthy"} for server in ("database", "broker")
        }
    for service in services.values():
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:")


def test_the_journal_is_on_a_volume(services: dict[str, Any]) -> None:
    assert services["trading"]["volumes"] == ["journal:/app/journal"]


def test_the_cluster_has_three_nodes_and_starts_with_its_monitor(services: dict[str, Any]) -> None:
    cluster = {name: each for name, each in services.items() if each.get("profiles") == ["cluster"]}
    nodes = {name for name, each in cluster.items() if each["image"].startswith("rabbitmq:")}
    ours = cluster.keys() - nodes
    named = re.findall(r"= rabbit@(.*)$", (HERE / "deploy/cluster/rabbitmq.conf").read_text(), re.MULTILINE)
    assert sorted(nodes) == sorted(named) == ["broker-1", "broker-2", "broker-3"]
    assert all(cluster[name]["hostname"] == name for name in nodes)
    assert {cluster[name]["environment"]["RABBITMQ_HOST"] for name in ours} == {",".join(sorted(nodes))}
    # Two collectors would publish every push twice.
    assert {name for name in ours if "deploy" in cluster[name]} == {"storage-cluster"}
    numbers = [cluster[f"signal-cluster-{number}"]["environment"]["SIGNAL_ENGINE"] for number in range(2)]
    assert numbers == ["0", "1"]
    assert {cluster[name]["environment"]["SIGNAL_ENGINES"] for name in ours} == {"2"}
    # A journal is one engine's own.
    journals = {cluster[name]["volumes"][0] for name in ours if name.startswith("trading-")}
    assert len(journals) == 2
    assert set(cluster["monitor-cluster"]["depends_on"]) == ours - {"monitor-cluster"}


def test_every_variable_of_a_container_of_ours_is_a_setting(services: dict[str, Any]) -> None:
    ours = [service for service in services.values() if service["image"] == "blackbird"]
    assert not {name for service in ours for name in service["environment"]} - set(setting_names())
