"""A stand-in for the `docker` command, as much of it as setup.sh uses: containers are entries of a file.

A container that is up passes its port on to a server which the test has running. The folder
`STAND_IN_DOCKER` holds the state, and files by which a test says how the engine behaves: `engine` (up, down,
denied), `no_compose`, `crashing`.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

Container = dict[str, Any]
STATE = Path(os.environ.get("STAND_IN_DOCKER", "."))


def load(state: Path) -> dict[str, Container]:
    file = state / "containers.json"
    return json.loads(file.read_text()) if file.exists() else {}


def save(state: Path, containers: dict[str, Container]) -> None:
    (state / "containers.json").write_text(json.dumps(containers))


def networks(state: Path) -> set[str]:
    file = state / "networks"
    return set(file.read_text().split()) if file.exists() else set()


def options(arguments: list[str], name: str) -> list[str]:
    return [value for option, value in itertools.pairwise(arguments) if option == name]


def project() -> str:
    """The project's name as compose finds it: the `name` of the file with the environment filled in."""
    name = re.search(r"^name: (.*)$", Path("docker-compose.yml").read_text(), re.MULTILINE)
    assert name
    filled = re.sub(r"\$\{(\w+):-([^}]*)\}", lambda each: os.environ.get(each[1]) or each[2], name[1])
    return os.environ.get("COMPOSE_PROJECT_NAME", filled)


def up(service: str) -> None:
    database = service == "database"
    name = os.environ["CONTAINER_NAME_DB" if database else "CONTAINER_NAME_RABBITMQ"]
    port = os.environ["POSTGRES_PORT" if database else "RABBITMQ_PORT"]
    folder = Path(os.environ["PGDATA_PATH" if database else "RABBITMQ_DATA_PATH"], "docker")
    # Docker makes what is missing of a mount's way, as root.
    assert folder.parent.is_dir(), "the engine would create the parent as root"
    folder.mkdir(exist_ok=True)
    (folder / "PG_VERSION").touch()
    containers = load(STATE)
    crashing = (STATE / "crashing").exists()
    if name in containers and containers[name]["state"] == "running":
        return
    made: Container = {
        "state": "restarting" if crashing else "running",
        "restarts": 1 if crashing else 0,
        "port": port,
        "folder": str(folder),
        "labels": {"project": project(), "project.working_dir": str(Path.cwd())},
        "relay": None,
    }
    if not crashing:
        target = (STATE / service).read_text()
        command = [sys.executable, __file__, "relay", port, target]
        with (STATE / "relay.log").open("ab") as log:
            made["relay"] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            ).pid
    containers[name] = made
    save(STATE, containers)
    (STATE / "networks").write_text("\n".join(networks(STATE) | {made["labels"]["project"]}))


def relay(port: int, target: int) -> None:
    """Pass connections on until killed."""
    listening = socket.create_server(("127.0.0.1", port))

    def pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    while True:
        near, _ = listening.accept()
        far = socket.create_connection(("127.0.0.1", target))
        for pair in ((near, far), (far, near)):
            threading.Thread(target=pump, args=pair, daemon=True).start()


def halt(container: Container) -> None:
    if container["relay"]:
        os.kill(container["relay"], signal.SIGKILL)
    container.update(relay=None, state="exited")


def matches(name: str, container: Container, filters: list[str]) -> bool:
    volumes = [each for each in filters if each.startswith("volume=")]
    for kind, _, value in (each.partition("=") for each in filters if not each.startswith("volume=")):
        if kind == "name":
            fits = re.search(value, f"/{name}") is not None
        elif kind == "publish":
            fits = container["port"] == value and container["state"] == "running"
        else:
            label, _, wanted = value.removeprefix("com.docker.compose.").partition("=")
            fits = container["labels"].get(label) == wanted
        if not fits:
            return False
    return not volumes or f"volume={container['folder']}" in volumes


def ps(arguments: list[str]) -> None:
    for name, container in load(STATE).items():
        shown = container["state"] in {"running", "restarting", "paused"} or "--all" in arguments
        if shown and matches(name, container, options(arguments, "--filter")):
            template = (options(arguments, "--format") or ["{{.Names}}"])[0]
            print({"{{.State}}": container["state"], "{{.Names}}": name}[template])


def inspect(template: str, name: str) -> int:
    container = load(STATE).get(name)
    if container is None:
        return 1
    if label := re.search(r'Labels "com\.docker\.compose\.([^"]*)"', template):
        print(container["labels"].get(label[1], ""))
    elif "HostPort" in template:
        print(f"{container['port']} ")
    else:
        print(
            template.replace("{{.State.Status}}", container["state"]).replace(
                "{{.RestartCount}}", str(container["restarts"])
            )
        )
    return 0


def execute(arguments: list[str]) -> int:
    program = next(n for n, each in enumerate(arguments) if each in {"psql", "rabbitmqctl"})
    if arguments[program] == "rabbitmqctl":
        print(*arguments[program:])
        return 0
    environment = {**os.environ, "PGHOST": "127.0.0.1", "PGPORT": load(STATE)[arguments[program - 1]]["port"]}
    command = [os.environ["STAND_IN_PSQL"], *arguments[program + 1 :]]
    return subprocess.run(command, env=environment, check=False).returncode


def main(arguments: list[str]) -> int:
    engine = (STATE / "engine").read_text().strip()
    with (STATE / "calls").open("a") as calls:
        calls.write(" ".join(arguments) + "\n")
    match arguments:
        case ["relay", port, target]:
            relay(int(port), int(target))
        case ["compose", "version"]:
            return int((STATE / "no_compose").exists())
        case _ if engine != "up":
            print(
                "permission denied while trying" if engine == "denied" else "cannot connect", file=sys.stderr
            )
            return 1
        case ["version", *_]:
            print("28.0.0")
        case ["compose", "-f", _, "up", "-d", service]:
            up(service)
        case ["compose", "-f", _, "logs", *_]:
            print("last words of the container")
        case ["ps", *rest]:
            ps(rest)
        case ["inspect", "--format", template, name]:
            return inspect(template, name)
        case ["stop", "-t", _, name]:
            containers = load(STATE)
            halt(containers[name])
            save(STATE, containers)
        case ["rm", name]:
            containers = load(STATE)
            del containers[name]
            save(STATE, containers)
        case ["network", "ls", *rest]:
            wanted = options(rest, "--filter")[0].removeprefix("label=com.docker.compose.project=")
            print(*(networks(STATE) & {wanted}))
        case ["network", "rm", *names]:
            (STATE / "networks").write_text("\n".join(networks(STATE) - set(names)))
        case ["exec", *rest]:
            return execute(rest)
        case _:
            raise ValueError(f"expected a known command, was {arguments}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
