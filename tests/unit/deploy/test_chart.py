"""The Helm chart, rendered by Helm's own code and checked by the schemas of Kubernetes; without a cluster."""

from __future__ import annotations

import functools
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from config import setting_names
from tests.support.deployment import run, tool, yaml_documents
from tests.support.workspace import HERE

CHART = HERE / "deploy/helm/blackbird"
RENDER = HERE / "tests/support/render_chart.py"
SERVERS = {"broker": {"hosts": "b1,b2,b3"}, "database": {"hosts": "db1,db2"}}
OPERATORS = CHART / "values-operators.yaml"
CASES: dict[str, dict[str, Any]] = {
    "servers elsewhere": SERVERS,
    "without a monitor": {
        **SERVERS,
        "trading": {"journal": {"storageClass": "fast"}},
        "monitor": {"enabled": False},
    },
    "every option": {
        **SERVERS,
        "signalEngines": 3,
        "signalPartitions": 16,
        "storages": 3,
        "secret": {"values": {"API_KEY": "k", "POSTGRES_PASSWORD": "p"}},
        "settings": {"ORDERBOOK_DEPTH": 1, "UNIQUE_ORDER": True, "LOG_FORMAT": "json"},
        "imagePullSecrets": [{"name": "mine"}],
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "trading", "operator": "Exists"}],
    },
}
# Kinds of the operators, whose schemas come with them.
FOREIGN = {"RabbitmqCluster", "Cluster"}


CASES_AND_FILE = [*CASES, "values-operators.yaml"]


def values_of(case: str) -> str:
    return json.dumps(CASES[case] if case in CASES else yaml_documents(OPERATORS.read_text())[0])


@functools.cache
def rendered(case: str) -> str:
    return run(tool("python"), RENDER, CHART, stdin=values_of(case))


@functools.cache
def objects(case: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the objects by kind and name."""
    found = [each for each in yaml_documents(rendered(case)) if each]
    return {(each["kind"], each["metadata"]["name"]): each for each in found}


def pods(case: str) -> dict[str, dict[str, Any]]:
    """Return the pod specs by the name of what makes them."""
    return {
        name: each["spec"]["template"]["spec"]
        for (_, name), each in objects(case).items()
        if "template" in each.get("spec", {})
    }


def refusal(values: dict[str, Any]) -> str:
    """Return why the chart does not take these values."""
    command = [tool("python"), str(RENDER), str(CHART)]
    done = subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("case", CASES_AND_FILE)
def test_helm_finds_nothing_in_the_chart(case: str) -> None:
    assert run(tool("python"), RENDER, CHART, "--lint", stdin=values_of(case)).strip() == ""


@pytest.mark.parametrize("case", CASES_AND_FILE)
def test_every_object_is_one_by_the_schemas_of_kubernetes(case: str, tmp_path: Path) -> None:
    file = tmp_path / "manifests.yaml"
    file.write_text(rendered(case))
    said = run(tool("kubernetes-validate"), "--strict", file)
    known = [key for key in objects(case) if key[0] not in FOREIGN]
    assert said.count(" passed for resource ") == len(known) > 10


@pytest.mark.parametrize("case", CASES_AND_FILE)
def test_pods_are_confined_and_restarted_only_when_they_stand_still(case: str) -> None:
    for name, pod in pods(case).items():
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["automountServiceAccountToken"] is False, name
        assert container["securityContext"]["readOnlyRootFilesystem"] is True, name
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, name
        if not name.startswith("test-schema"):
            assert container["livenessProbe"]["exec"]["command"] == ["/app/deploy/image/alive"], name
            assert {mount["mountPath"] for mount in container["volumeMounts"]} >= {"/tmp"}, name  # noqa: S108


@pytest.mark.parametrize("case", CASES_AND_FILE)
def test_every_variable_is_a_setting(case: str) -> None:
    named = set(objects(case)["ConfigMap", "test-settings"]["data"])
    for pod in pods(case).values():
        named |= {variable["name"] for variable in pod["containers"][0]["env"]}
    assert not named - set(setting_names()) - {"PYTHONDONTWRITEBYTECODE"}


def test_settings_reach_the_services_as_they_are_written() -> None:
    settings = objects("every option")["ConfigMap", "test-settings"]["data"]
    written = {name: settings[name] for name in ("ORDERBOOK_DEPTH", "UNIQUE_ORDER", "LOG_FORMAT")}
    assert written == {"ORDERBOOK_DEPTH": "1", "UNIQUE_ORDER": "true", "LOG_FORMAT": "json"}


def test_there_is_one_collector_at_a_time() -> None:
    collector = objects("servers elsewhere")["Deployment", "test-collector"]["spec"]
    assert (collector["replicas"], collector["strategy"]) == (1, {"type": "Recreate"})


def test_the_ordinal_of_a_signal_engine_is_its_number_where_the_feed_is_divided() -> None:
    assert objects("every option")["ConfigMap", "test-settings"]["data"]["SIGNAL_PARTITIONS"] == "16"
    (container,) = engines("every option")["template"]["spec"]["containers"]
    environment = {each["name"]: each for each in container["env"]}
    assert environment["SIGNAL_ENGINES"]["value"] == "3" == str(engines("every option")["replicas"])
    # Kubernetes 1.28 and later: https://kubernetes.io/docs/reference/labels-annotations-taints/
    index = {"fieldRef": {"fieldPath": "metadata.labels['apps.kubernetes.io/pod-index']"}}
    assert environment["SIGNAL_ENGINE"]["valueFrom"] == index

    (container,) = engines("servers elsewhere")["template"]["spec"]["containers"]
    assert not any(each["name"].startswith("SIGNAL") for each in container["env"])
    assert "SIGNAL_PARTITIONS" not in objects("servers elsewhere")["ConfigMap", "test-settings"]["data"]


def engines(case: str) -> dict[str, Any]:
    specification: dict[str, Any] = objects(case)["StatefulSet", "test-signal"]["spec"]
    return specification


def test_each_trading_engine_keeps_its_journal_on_a_volume_of_its_own() -> None:
    trading = objects("without a monitor")["StatefulSet", "test-trading"]["spec"]
    assert trading["replicas"] == 2
    (claim,) = trading["volumeClaimTemplates"]
    assert claim["spec"]["storageClassName"] == "fast"
    (container,) = trading["template"]["spec"]["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts[claim["metadata"]["name"]] == "/app/journal"


def test_hosts_and_users_are_those_of_the_operators() -> None:
    settings = objects("values-operators.yaml")["ConfigMap", "test-settings"]["data"]
    nodes = ",".join(f"test-broker-server-{number}.test-broker-nodes" for number in range(3))
    assert (settings["RABBITMQ_HOST"], settings["POSTGRES_HOST"]) == (nodes, "test-database-rw")
    assert not {"RABBITMQ_DEFAULT_USER", "POSTGRES_USER"} & set(settings)
    for pod in pods("values-operators.yaml").values():
        secrets = {
            each["name"]: each["valueFrom"]["secretKeyRef"]["name"]
            for each in pod["containers"][0]["env"]
            if "secretKeyRef" in each.get("valueFrom", {})
        }
        assert secrets == {
            "RABBITMQ_DEFAULT_USER": "test-broker-default-user",
            "RABBITMQ_DEFAULT_PASS": "test-broker-default-user",
            "POSTGRES_USER": "test-database-app",
            "POSTGRES_PASSWORD": "test-database-app",
        }
    broker = objects("values-operators.yaml")["RabbitmqCluster", "test-broker"]["spec"]
    assert broker["replicas"] == 3
    database = objects("values-operators.yaml")["Cluster", "test-database"]["spec"]
    assert database["postgresql"]["synchronous"] == {"method": "any", "number": 1}


def test_secrets_are_in_a_secret_and_nowhere_else() -> None:
    text = rendered("every option")
    assert text.count("API_KEY") == 1
    secret = objects("every option")["Secret", "test-secrets"]
    assert secret["stringData"] == {"API_KEY": "k", "POSTGRES_PASSWORD": "p"}


def test_a_drained_node_takes_one_of_a_kind_at_a_time() -> None:
    case = "every option"
    budgets = {name for kind, name in objects(case) if kind == "PodDisruptionBudget"}
    assert budgets == {f"test-{name}" for name in ("signal", "storage", "trading")}


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"database": {"hosts": "db"}}, "broker.hosts"),
        ({"broker": {"hosts": "b"}}, "database.hosts"),
        ({**SERVERS, "storages": 0}, "minimum"),
        ({**SERVERS, "secret": {"values": {"API_KEYS": "x"}}}, "API_KEYS"),
    ],
)
def test_values_that_make_no_sense_are_refused_with_the_reason(values: dict[str, Any], reason: str) -> None:
    assert reason in refusal(values)
