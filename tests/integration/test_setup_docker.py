"""setup.sh with Docker, on a stand-in for the docker command whose containers lead to the tests' servers."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from config import Config
from tests.support import stand_in_docker
from tests.support.setup_script import Setup
from tests.support.workspace import HERE, Workspace, free_ports


def psql() -> str:
    """A psql for the containers: the one that setup.sh has fetched, or the machine's."""
    fetched = HERE / ".tools/timescaledb/usr/lib/postgresql/17/bin/psql"
    packaged = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin/psql")))
    found = str(fetched) if fetched.exists() else shutil.which("psql") or next(iter(packaged), None)
    return found or pytest.skip("no psql on this machine")


class Engine:
    """The stand-in's state: what a test looks at, and how it wants the engine to behave."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "engine"
        self.state.mkdir()
        self.behave("up")
        (self.state / "database").write_text(Config.DB_CONFIG["port"])
        (self.state / "broker").write_text(str(Config.RABBITMQ_PORT))
        self.bin = folder / "bin"
        self.bin.mkdir()
        docker = self.bin / "docker"
        docker.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{stand_in_docker.__file__}" "$@"\n')
        docker.chmod(0o755)

    def behave(self, how: str) -> None:
        (self.state / "engine").write_text(how)

    @property
    def containers(self) -> dict[str, str]:
        """State by name."""
        file = self.state / "containers.json"
        found = stand_in_docker.load(self.state) if file.exists() else {}
        return {name: container["state"] for name, container in found.items()}

    @property
    def networks(self) -> set[str]:
        return stand_in_docker.networks(self.state)

    def halt(self, name: str) -> None:
        """End a container as `docker stop` by hand would."""
        found = stand_in_docker.load(self.state)
        stand_in_docker.halt(found[name])
        stand_in_docker.save(self.state, found)

    def give_away(self, name: str, checkout: str) -> None:
        """Make a container one that another checkout, or nobody of ours, has started."""
        found = stand_in_docker.load(self.state)
        found[name]["labels"]["project.working_dir"] = checkout
        stand_in_docker.save(self.state, found)

    def close(self) -> None:
        for container in stand_in_docker.load(self.state).values():
            if container["relay"]:
                os.kill(container["relay"], signal.SIGKILL)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = Engine(tmp_path)
    yield made
    made.close()


@pytest.fixture
def setup(engine: Engine, place: Workspace, tmp_path: Path) -> Setup:
    database, broker, management = map(str, free_ports(3))
    return Setup(
        HERE,
        INFRASTRUCTURE="auto",
        PATH=f"{engine.bin}:{os.environ['PATH']}",
        STAND_IN_DOCKER=str(engine.state),
        STAND_IN_PSQL=psql(),
        POSTGRES_PORT=database,
        POSTGRES_DB=place.name,
        PGDATA_PATH=str(tmp_path / "data/postgres"),
        CONTAINER_NAME_DB="one_database",
        RABBITMQ_PORT=broker,
        RABBITMQ_MANAGEMENT_PORT=management,
        RABBITMQ_VHOST=place.name,
        RABBITMQ_DATA_PATH=str(tmp_path / "data/rabbitmq"),
        CONTAINER_NAME_RABBITMQ="oneBroker",
    )


def refused(setup: Setup, *arguments: str) -> str:
    answer = setup(*arguments)
    assert answer.status == 1, answer.output
    assert answer.output.count("\n") == 1, answer.output
    return answer.output


def another_pair(setup: Setup) -> Setup:
    """The same folders under other ports and names."""
    database, broker = map(str, free_ports(2))
    return setup.with_settings(
        POSTGRES_PORT=database, RABBITMQ_PORT=broker, CONTAINER_NAME_DB="two", CONTAINER_NAME_RABBITMQ="three"
    )


def test_both_servers_start_once_and_stop_with_nothing_left(setup: Setup, engine: Engine) -> None:
    output = setup.succeed("start")
    assert "container one_database, run by this checkout" in output
    assert "starting" not in setup.succeed("start")
    assert engine.containers == {"one_database": "running", "oneBroker": "running"}
    project = f"blackbird-{setup.settings['POSTGRES_PORT']}-{setup.settings['RABBITMQ_PORT']}"
    assert engine.networks == {project}
    setup.succeed("stop", "broker")
    assert engine.networks == {project}
    setup.succeed("stop", "database")
    assert (engine.containers, engine.networks) == ({}, set())


def test_a_project_is_named_by_the_compose_file_alone(setup: Setup, engine: Engine) -> None:
    setup.succeed("start", "database")
    calls = [line.split() for line in (engine.state / "calls").read_text().splitlines()]
    assert ["compose", "-f", "docker-compose.yml", "up", "-d", "database"] in calls
    assert not [call for call in calls if "-p" in call or "--project-name" in call]


@pytest.mark.parametrize("server", ["database", "broker"])
def test_a_second_container_on_the_same_data_is_refused(setup: Setup, engine: Engine, server: str) -> None:
    setup.succeed("start", server)
    before = engine.containers
    said = refused(another_pair(setup), "start", server)
    assert f"container {next(iter(before))} works on the data in" in said
    assert engine.containers == before


@pytest.mark.parametrize(("server", "name"), [("database", "POSTGRES_PORT"), ("broker", "RABBITMQ_PORT")])
def test_another_port_alone_is_refused(setup: Setup, engine: Engine, server: str, name: str) -> None:
    setup.succeed("start", server)
    before = engine.containers
    said = refused(setup.with_settings(**{name: str(free_ports(1)[0])}), "start", server)
    assert f"is on port {setup.settings[name]}" in said
    assert engine.containers == before


def test_no_empty_native_server_stands_in_for_data_of_docker(setup: Setup, engine: Engine) -> None:
    setup.succeed("start")
    setup.succeed("stop")
    engine.behave("down")
    for server in ("database", "broker"):
        said = refused(setup, "start", server)
        assert "no Docker engine answers: start Docker, or say INFRASTRUCTURE=native" in said
    assert not list(Path(setup.settings["PGDATA_PATH"]).parent.glob("*/native"))


def test_no_empty_container_stands_in_for_data_of_a_native_server(setup: Setup, engine: Engine) -> None:
    data = Path(setup.settings["PGDATA_PATH"], "native", "data")
    data.mkdir(parents=True)
    said = refused(setup, "start", "database")
    assert f"{data.parent}" in said
    assert "INFRASTRUCTURE=native goes on with it, INFRASTRUCTURE=docker leaves it" in said
    assert engine.containers == {}
    setup.with_settings(INFRASTRUCTURE="docker").succeed("start", "database")
    assert engine.containers == {"one_database": "running"}


@pytest.mark.parametrize(
    ("how", "said"),
    [("down", "no Docker engine answers"), ("denied", "permission denied on the Docker socket")],
)
def test_why_docker_cannot_be_used_is_said(setup: Setup, engine: Engine, how: str, said: str) -> None:
    engine.behave(how)
    assert said in refused(setup.with_settings(INFRASTRUCTURE="docker"), "start", "database")


def test_an_engine_without_compose_is_passed_by_with_a_warning(setup: Setup, engine: Engine) -> None:
    (engine.state / "no_compose").touch()
    assert "no docker compose" in refused(setup.with_settings(INFRASTRUCTURE="docker"), "start", "database")
    try:
        output = setup.succeed("start", "database")
        assert "no docker compose of version 2: going on without Docker" in output
        assert "starting PostgreSQL" in output
    finally:
        setup("stop", "database")
        shutil.rmtree(Path(setup.settings["PGDATA_PATH"], "native").resolve(), ignore_errors=True)


def test_a_container_that_ends_again_and_again_is_noticed(setup: Setup, engine: Engine) -> None:
    (engine.state / "crashing").touch()
    for _ in range(2):
        answer = setup("start", "database")
        assert answer.status == 1
        assert "last words of the container" in answer.output
        assert "the container of the database ends again and again" in answer.output
    setup.succeed("stop", "database")
    assert engine.containers == {}


def test_a_stopped_container_is_found(setup: Setup, engine: Engine) -> None:
    setup.succeed("start", "database")
    engine.halt("one_database")
    assert "container one_database is exited" in setup("status").output
    # Nothing runs on its data: it may as well go on under another port.
    moved = setup.with_settings(POSTGRES_PORT=str(free_ports(1)[0]))
    moved.succeed("start", "database")
    assert engine.containers == {"one_database": "running"}
    engine.halt("one_database")
    assert "container stopped" in moved.succeed("stop", "database")
    assert (engine.containers, engine.networks) == ({}, set())


def test_a_name_that_another_checkout_uses_is_refused(setup: Setup, engine: Engine, tmp_path: Path) -> None:
    setup.succeed("start", "database")
    engine.give_away("one_database", "/another/checkout")
    other = setup.with_settings(POSTGRES_PORT=str(free_ports(1)[0]), PGDATA_PATH=str(tmp_path / "other"))
    said = refused(other, "start", "database")
    assert "the container name one_database is taken by the checkout in /another/checkout" in said
    setup("stop", "database")
    assert engine.containers == {"one_database": "running"}


def test_a_foreign_server_does_not_stand_in_for_own_data(
    setup: Setup, engine: Engine, tmp_path: Path
) -> None:
    # It reads all that it is given, which is more than a pipe holds.
    reader = tmp_path / "psql"
    reader.write_text("#!/bin/sh\nexec cat >/dev/null\n")
    reader.chmod(0o755)
    docker = setup.with_settings(INFRASTRUCTURE="docker", STAND_IN_PSQL=str(reader))
    docker.succeed("start", "database")
    engine.give_away("one_database", "")
    said = refused(docker, "start", "database")
    assert "was not started by Blackbird" in said
    assert f"{setup.settings['PGDATA_PATH']}/docker" in said
    docker.with_settings(USE_FOREIGN_SERVERS="true").succeed("start", "database")


@pytest.mark.parametrize(
    ("command", "passed"),
    [
        (["list_queues"], "list_queues -p {vhost}"),
        (["-q", "list_queues", "name"], "-q list_queues name -p {vhost}"),
        (["list_queues", "-p", "/"], "list_queues -p /"),
        (["list_queues", "--vhost=/"], "list_queues --vhost=/"),
        (["list_vhosts"], "list_vhosts"),
        (["status"], "status"),
    ],
)
def test_rabbitmqctl_is_about_the_configured_virtual_host(
    setup: Setup, command: list[str], passed: str
) -> None:
    setup.succeed("start", "broker")
    output = setup.succeed("rabbitmqctl", *command)
    assert output == f"rabbitmqctl {passed.format(vhost=setup.settings['RABBITMQ_VHOST'])}\n"
