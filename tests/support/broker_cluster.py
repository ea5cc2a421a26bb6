"""Three nodes of RabbitMQ on 127.0.0.1 that a test has to itself, to be killed, frozen and stopped."""

from __future__ import annotations

import http.client
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Self

import pytest

from config import Config
from tests.support.workspace import HERE, free_ports, management, wait_for

NAMES = ("a", "b", "c")
# Under load a node needs its time; nothing here is about speed.
START_SECONDS = 180.0
# Schedulers neither wait busily nor are many: three nodes and all services share few cores.
ERLANG = "+S 1 +sbwt none +sbwtdcpu none +sbwtdio none -ra wal_max_size_bytes 67108864"
LOOPBACK = "-kernel inet_dist_use_interface {127,0,0,1}"


def programs(release: str) -> tuple[Path, str]:
    """Return the folder of a release and the PATH for it; skips the test where it is not here."""
    if release == "installed":
        folder, path = Path("/usr/lib/rabbitmq/bin"), os.environ["PATH"]
    else:
        usr = (HERE / f".tools/rabbitmq-{release}/usr").resolve()
        folder, path = usr / "lib/rabbitmq/bin", f"{usr}/lib/erlang/bin:{os.environ['PATH']}"
    if not (folder / "rabbitmq-server").exists():
        pytest.skip(f"RabbitMQ {release} is not here: RABBITMQ_RELEASE={release} ./setup.sh start fetches it")
    return folder, path


class Node:
    """One node; `port` is where clients connect, `management` the environment for its interface."""

    def __init__(self, name: str, folder: Path, ports: list[int], name_service: int, release: str) -> None:
        self.name = f"{name}@localhost"
        self.folder = folder
        self.port, self._management_port, self._distribution = ports
        self.management = {
            "RABBITMQ_HOST": "127.0.0.1",
            "RABBITMQ_MANAGEMENT_PORT": str(self._management_port),
        }
        self._name_service = name_service
        self._programs, self._path = programs(release)
        self._process: subprocess.Popen[Any] | None = None

    def configure(self) -> None:
        """Write the node's files: it forms a cluster with the others when it starts."""
        (self.folder / "log").mkdir(parents=True)
        peers = [
            f"cluster_formation.classic_config.nodes.{number} = {name}@localhost"
            for number, name in enumerate(NAMES, 1)
        ]
        lines = [
            f"listeners.tcp.1 = 127.0.0.1:{self.port}",
            "management.tcp.ip = 127.0.0.1",
            f"management.tcp.port = {self._management_port}",
            f"default_user = {Config.RABBITMQ_USER}",
            f"default_pass = {Config.RABBITMQ_PASSWORD}",
            "cluster_formation.peer_discovery_backend = classic_config",
            *peers,
            # A node that was frozen and goes on does not come back by itself under pause_minority.
            "cluster_partition_handling = autoheal",
            "net_ticktime = 5",
        ]
        (self.folder / "rabbitmq.conf").write_text("\n".join([*lines, ""]))
        (self.folder / "plugins").write_text("[rabbitmq_management].\n")
        (self.folder / "env.conf").touch()

    def start(self) -> None:
        """Start the node without waiting for it."""
        folder = self.folder
        environment = {
            "PATH": self._path,
            "LC_ALL": "C.UTF-8",
            "HOME": str(folder.parent),
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_CONF_ENV_FILE": str(folder / "env.conf"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "config"),
            "RABBITMQ_SCHEMA_DIR": str(folder / "schema"),
            "RABBITMQ_FEATURE_FLAGS_FILE": str(folder / "feature_flags"),
            "RABBITMQ_PID_FILE": str(folder / "node.pid"),
            "RABBITMQ_DIST_PORT": str(self._distribution),
            "ERL_EPMD_PORT": str(self._name_service),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"{ERLANG} {LOOPBACK}",
            # The process that is started here is the broker's own then, so that signals reach it.
            "RUNNING_UNDER_SYSTEMD": "true",
        }
        with (folder / "log/out").open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "rabbitmq-server"],
                cwd="/",
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def ask(self, path: str) -> Any:
        """Ask the node's management interface; nothing where it does not answer."""
        try:
            return management(self.management, "GET", path)
        except (OSError, http.client.HTTPException):
            return {}

    @property
    def is_alive(self) -> bool:
        """Whether the node's process runs."""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """End the node as a crash of its machine would."""
        self._signal(signal.SIGKILL)
        self._wait()

    def stop(self) -> None:
        """End the node in good order."""
        self._signal(signal.SIGTERM)
        self._wait()

    def freeze(self) -> None:
        """Let the node do nothing until `thaw`: to the others it is silent, not gone."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen node go on."""
        self._signal(signal.SIGCONT)

    def end_name_service(self) -> None:
        """End epmd, which outlives the nodes that have started it."""
        environment = {"PATH": self._path, "ERL_EPMD_PORT": str(self._name_service)}
        subprocess.run(["epmd", "-kill"], env=environment, capture_output=True, check=False)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def _wait(self) -> None:
        if self._process is not None:
            self._process.wait(START_SECONDS)


class BrokerCluster:
    """Three nodes of a release ("installed" or one of RABBITMQ_RELEASE), as a context manager."""

    def __init__(self, release: str) -> None:
        programs(release)
        self.folder = Path(tempfile.mkdtemp(prefix="blackbird-cluster-", dir="/tmp"))
        name_service, *ports = free_ports(1 + 3 * len(NAMES))
        self.nodes = [
            Node(name, self.folder / name, ports[3 * number : 3 * number + 3], name_service, release)
            for number, name in enumerate(NAMES)
        ]

    def __enter__(self) -> Self:
        """Start the nodes, and return when they are one cluster."""
        try:
            # Three nodes at once would make a cookie each.
            cookie = self.folder / ".erlang.cookie"
            cookie.write_text(secrets.token_hex(16))
            cookie.chmod(0o400)
            for node in self.nodes:
                node.configure()
                node.start()
            self.await_formed()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End all, and leave nothing."""
        for node in self.nodes:
            node.thaw()
            node.kill()
        self.nodes[0].end_name_service()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def hosts(self) -> str:
        """RABBITMQ_HOST for clients of this cluster."""
        return ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def await_formed(self) -> None:
        """Wait until each node sees all of them running."""
        wait_for(self._is_formed, f"three nodes, see {self.folder}/*/log", START_SECONDS)

    def _is_formed(self) -> bool:
        for node in self.nodes:
            assert node.is_alive, (node.folder / "log/out").read_text()[-3000:]
        seen = [node.ask("nodes") or [] for node in self.nodes]
        return all(sum(bool(each["running"]) for each in those) == len(NAMES) for those in seen)

    def leader_of(self, vhost: str, queue: str) -> Node:
        """Return the node that leads a quorum queue."""

        def leader() -> Node | None:
            for asked in self.nodes:
                if asked.is_alive:
                    name = asked.ask(f"queues/{vhost}/{queue}").get("leader")
                    found = [node for node in self.nodes if node.name == name and node.is_alive]
                    if found:
                        return found[0]
            return None

        return wait_for(leader, f"a leader of {queue}", START_SECONDS)
