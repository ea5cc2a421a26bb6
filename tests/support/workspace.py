"""A virtual host and a database of a test's own, and the real services as processes on them."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import pika
import pika.exceptions
import psycopg2
import psycopg2.errors
from pika.adapters.blocking_connection import BlockingChannel

from blackbird.broker.feed_layout import FeedLayout
from config import Config
from launcher.queues import BrokerUnavailableError, look_up

HERE = Path(__file__).resolve().parents[2]
SCHEMA = HERE / "deploy" / "init.sql"
PYTHON = sys.executable
DEADLINE = 20.0
# Books are traded on however old they are: a test that stops processes, or a busy machine, makes them so.
ANY_AGE = {"MAX_BOOK_AGE_MS": "0", "MAX_LAG_MS": "0", "MAX_BOOK_LAG_MS": "0"}

# The queue that a service has a consumer on once it is at work; the collector has a binding instead.
CONSUMED = {"data_storage": "storage", "signal": "signal", "trading_engine": "orders"}
COLLECTOR = "market_data_collector"

T = TypeVar("T")


def wait_for(condition: Callable[[], T | None], what: str = "", seconds: float = DEADLINE) -> T:
    """Return the condition's first true value; fail when there was none in time."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what or condition}")
        time.sleep(0.02)


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on, outside the range that the kernel hands out."""
    found: dict[int, socket.socket] = {}
    # Anywhere in the range: tests that run side by side must not come upon the same ones.
    chance = random.SystemRandom()
    while len(found) < count:
        port = chance.randint(21_000, 31_999)
        candidate = socket.socket()
        try:
            candidate.bind(("127.0.0.1", port))
        except OSError:
            candidate.close()
        else:
            found[port] = candidate
    for each in found.values():
        each.close()
    return list(found)


def free_port() -> int:
    """Return a port that nobody listens on."""
    return free_ports(1)[0]


class Service:
    """One service as a process; what it prints goes to a file."""

    def __init__(self, command: Sequence[str], environment: dict[str, str], log: Path) -> None:
        self.log = log
        self._broker_port = int(environment.get("RABBITMQ_PORT", Config.RABBITMQ_PORT))
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command, cwd=HERE, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def warnings(self) -> list[str]:
        """The log lines so far that ask for attention."""
        return [line for line in self.output.splitlines() if re.match(r"\S+ \S+ (WARNING|ERROR) ", line)]

    def first_warning(self, seconds: float = DEADLINE) -> str:
        """Wait until the service warns of something for the first time, and return the line."""

        def warned() -> bool:
            assert self.is_running or self.warnings, f"ended:\n{self.output}"
            return bool(self.warnings)

        wait_for(warned, f"a warning in the log {self.log}", seconds)
        return self.warnings[0]

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def broker_connections(self) -> frozenset[int]:
        """Return the local ports of its connections to the broker: another connection has another port."""
        return connected_ports(self.process.pid, self._broker_port)

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()
        self.process.wait()

    def stop(self, seconds: float = 8) -> int:
        """End it as its user would, and return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def pause(self) -> None:
        """Let it stand still, for certain: a busy machine gets round to a signal milliseconds later."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)


class Workspace:
    """Where one test lives. Everything in it ends with the test."""

    def __init__(self, folder: Path, name: str, settings: dict[str, str]) -> None:
        self.folder = folder
        self.name = name
        self.environment = {
            **os.environ,
            "RABBITMQ_VHOST": name,
            "POSTGRES_DB": name,
            "JOURNAL_PATH": str(folder / "journal"),
            "PYTHONUNBUFFERED": "1",
            # A second connection of each service would be in the way of tests that cut and count them.
            "STATUS_INTERVAL_MS": "0",
            **settings,
        }
        self._services: list[Service] = []
        self._names: dict[Service, str] = {}
        self._connections: list[Any] = []

    # --- processes -------------------------------------------------------------------------------

    def start(self, service: str, **settings: str) -> Service:
        """Start `<service>_service.py`."""
        return self.start_script(HERE / f"{service}_service.py", service, **settings)

    def start_script(self, script: Path, service: str, **settings: str) -> Service:
        """Start a script that is, or stands in for, a service."""
        log = self.folder / f"{len(self._services)}_{service}.log"
        started = Service([PYTHON, str(script)], {**self.environment, **settings}, log)
        self._services.append(started)
        self._names[started] = service
        return started

    def start_ready(self, service: str, **settings: str) -> Service:
        """Start a service and wait until it is at work."""
        # A predecessor whose end the broker has not noticed yet must not be taken for this one.
        wait_for(lambda: self._at_work(service) <= self._running(service), f"the end of another {service}")
        others = self._at_work(service)
        started = self.start(service, **settings)
        self._await_at_work(started, others + 1)
        return started

    def await_ready(self, *services: Service) -> None:
        """Wait until these services, and all others of their kind that run, are at work."""
        for service in services:
            self._await_at_work(service, self._running(self._names[service]))

    def _await_at_work(self, service: Service, count: int) -> None:
        """Wait until so many processes of this service are at work; fail where this one has ended."""
        name = self._names[service]

        def at_work() -> bool:
            assert service.is_running, f"ended:\n{service.output}"
            return self._at_work(name) >= count

        wait_for(at_work, f"{name} is at work, see {service.log}")
        if name == "trading_engine":
            # Not answered before it has read its state.
            self.ask({"action": "List Open Spreads"})

    def start_signal(self, **settings: str) -> Service:
        return self.start_ready("signal", **settings)

    def start_engine(self, **settings: str) -> Service:
        return self.start_ready("trading_engine", **settings)

    def start_storage(self, **settings: str) -> Service:
        return self.start_ready("data_storage", **settings)

    def consumers(self, queue: str) -> int:
        """Return how many consumers a queue has."""
        return look_up(self.broker, queue)[queue].consumers

    def rollbacks(self) -> int:
        """Return how many transactions on the test's database failed so far."""
        return int(
            self.query("SELECT xact_rollback FROM pg_stat_database WHERE datname = %s", self.name)[0][0]
        )

    def lock_wait(self, service: str) -> Any:
        """Return since when a service ("data storage", "trading engine") waits for a lock in the database."""
        rows = self.query(
            "SELECT query_start FROM pg_stat_activity"
            " WHERE datname = %s AND application_name = %s AND wait_event_type = 'Lock'",
            self.name,
            f"blackbird {service}",
        )
        return rows[0][0] if rows else None

    def _running(self, name: str) -> int:
        """Return how many processes of a service run."""
        return sum(service.is_running for service, its_name in self._names.items() if its_name == name)

    def _at_work(self, name: str) -> int:
        """Return how many processes of a service consume what they are there for, 0 without a broker."""
        with contextlib.suppress(BrokerUnavailableError, OSError):
            if name == COLLECTOR:
                return self.bindings("resync")
            layout, queue = self.layout, CONSUMED[name]
            queues = [queue] if queue == "orders" else layout.queues(queue)
            return min(state.consumers for state in look_up(self.broker, *queues).values())
        return 0

    @property
    def layout(self) -> FeedLayout:
        """How the feed of the test's services is divided."""
        return FeedLayout(int(self.environment.get("SIGNAL_PARTITIONS", "0")))

    def queues(self) -> set[str]:
        """Return the names of the queues in the test's virtual host."""
        path = f"queues/{urllib.parse.quote(self.name, safe='')}"
        return {queue["name"] for queue in management(self.environment, "GET", path)}

    def active_consumers(self) -> set[str]:
        """Return the tags of the consumers that the broker delivers to."""
        path = f"consumers/{urllib.parse.quote(self.name, safe='')}"
        consumers = management(self.environment, "GET", path)
        return {
            each["consumer_tag"] for each in consumers if each["activity_status"] in {"up", "single_active"}
        }

    def broker_version(self) -> tuple[int, int]:
        """Return the broker's version, as (3, 13)."""
        major, minor, *_ = management(self.environment, "GET", "overview")["rabbitmq_version"].split(".")
        return int(major), int(minor)

    def bindings(self, key: str) -> int:
        """Return how many queues are bound to a routing key of the exchange."""
        path = f"exchanges/{urllib.parse.quote(self.name, safe='')}/data_feeder/bindings/source"
        bindings = management(self.environment, "GET", path)
        return sum(binding["routing_key"] == key for binding in bindings)

    # --- broker ----------------------------------------------------------------------------------

    @property
    def broker(self) -> dict[str, Any]:
        """Arguments of `connection_parameters` for the test's virtual host."""
        host = self.environment.get("RABBITMQ_HOST", Config.RABBITMQ_HOST)
        port = int(self.environment.get("RABBITMQ_PORT", Config.RABBITMQ_PORT))
        return {**Config.BROKER_CONFIG, "host": host, "port": port, "virtual_host": self.name}

    def channel(self) -> BlockingChannel:
        """Return a channel of a connection of its own to the test's virtual host."""
        connection = pika.BlockingConnection(
            pika.ConnectionParameters(
                self.environment.get("RABBITMQ_HOST", Config.RABBITMQ_HOST),
                int(self.environment.get("RABBITMQ_PORT", Config.RABBITMQ_PORT)),
                self.name,
                pika.PlainCredentials(Config.RABBITMQ_USER, Config.RABBITMQ_PASSWORD),
            )
        )
        self._connections.append(connection)
        return connection.channel()

    def waiting(self, queue: str) -> int:
        """Return how many messages of `queue` are not acknowledged yet, delivered or not."""
        answer = management(
            self.environment, "GET", f"queues/{urllib.parse.quote(self.name, safe='')}/{queue}"
        )
        return int(answer.get("messages", 0))

    def ask(self, body: dict[str, Any] | bytes, *, seconds: float = DEADLINE, **properties: Any) -> Any:
        """Send a request to the `orders` queue and return the reply as decoded JSON."""
        channel = self.channel()
        replies: list[bytes] = []
        channel.basic_consume(
            "amq.rabbitmq.reply-to", lambda _c, _m, _p, reply: replies.append(reply), auto_ack=True
        )
        channel.basic_publish(
            "",
            "orders",
            body if isinstance(body, bytes) else encode(body),
            pika.BasicProperties(
                reply_to="amq.rabbitmq.reply-to",
                correlation_id=uuid.uuid4().hex,
                delivery_mode=2,
                **properties,
            ),
        )
        deadline = time.monotonic() + seconds
        while not replies:
            assert time.monotonic() < deadline, "no reply"
            channel.connection.process_data_events(0.05)
        channel.connection.close()
        return json.loads(replies[0], parse_float=Decimal)

    # --- database --------------------------------------------------------------------------------

    def query(self, statement: str, *arguments: Any) -> list[tuple[Any, ...]]:
        """Return the rows that a statement gives, on a connection of its own."""
        with contextlib.closing(connect(self.environment, self.name)) as connection, connection:
            cursor = connection.cursor()
            cursor.execute(statement, arguments or None)
            return list(cursor.fetchall()) if cursor.description else []

    def close(self) -> None:
        """End every process and connection of the test."""
        for service in self._services:
            if service.process.poll() is None:
                service.process.send_signal(signal.SIGCONT)
                service.kill()
        for connection in self._connections:
            with contextlib.suppress(pika.exceptions.AMQPError, OSError):
                connection.close()


def connected_ports(pid: int, remote_port: int) -> frozenset[int]:
    """Return the local ports of a process's TCP connections to a port (Linux)."""
    found = set()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        sockets = {str(each.readlink()) for each in Path(f"/proc/{pid}/fd").iterdir()}
        for table in ("tcp", "tcp6"):
            for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
                _, local, remote, state, *_, inode = line.split()[:10]
                is_open = state == "01" and f"socket:[{inode}]" in sockets
                if is_open and int(remote.rpartition(":")[2], 16) == remote_port:
                    found.add(int(local.rpartition(":")[2], 16))
    return frozenset(found)


class _DecimalNumbers(json.JSONEncoder):
    def default(self, o: Any) -> Any:
        if isinstance(o, Decimal):
            return float(o)
        return super().default(o)


def encode(body: Any) -> bytes:
    return json.dumps(body, cls=_DecimalNumbers).encode()


def connect(environment: dict[str, str], database: str) -> Any:
    connection = psycopg2.connect(
        dbname=database,
        host=environment.get("POSTGRES_HOST", Config.DB_CONFIG["host"]),
        port=environment.get("POSTGRES_PORT", Config.DB_CONFIG["port"]),
        user=Config.DB_CONFIG["user"],
        password=Config.DB_CONFIG["password"],
        connect_timeout=5,
    )
    connection.autocommit = True
    return connection


def management(environment: dict[str, str], method: str, path: str, body: Any = None) -> Any:
    """Ask the broker's management interface."""
    port = int(environment.get("RABBITMQ_MANAGEMENT_PORT", "15672"))
    connection = http.client.HTTPConnection(environment.get("RABBITMQ_HOST", "127.0.0.1"), port, timeout=10)
    credentials = base64.b64encode(f"{Config.RABBITMQ_USER}:{Config.RABBITMQ_PASSWORD}".encode()).decode()
    headers = {"Authorization": f"Basic {credentials}", "Content-Type": "application/json"}
    with contextlib.closing(connection):
        connection.request(method, f"/api/{path}", None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read()
    return json.loads(text) if text and answer.status == 200 else {}


def make_virtual_host(environment: dict[str, str], name: str) -> None:
    management(environment, "PUT", f"vhosts/{name}")
    permissions = {"configure": ".*", "write": ".*", "read": ".*"}
    management(environment, "PUT", f"permissions/{name}/{Config.RABBITMQ_USER}", permissions)


def make_database(environment: dict[str, str], name: str) -> None:
    with contextlib.closing(connect(environment, "postgres")) as connection:
        connection.cursor().execute(f'CREATE DATABASE "{name}"')
    _apply_schema(environment, name, SCHEMA)


def apply_schema(place: Workspace, schema: Path = SCHEMA) -> None:
    """Apply the schema to the test's database again, as setup.sh does."""
    _apply_schema(place.environment, place.name, schema)


def _apply_schema(environment: dict[str, str], name: str, schema: Path) -> None:
    lines = schema.read_text().splitlines()
    statements = "\n".join(line for line in lines if not line.startswith("\\"))
    with contextlib.closing(connect(environment, name)) as connection:
        connection.cursor().execute(statements)


def drop_database(environment: dict[str, str], name: str) -> None:
    with contextlib.closing(connect(environment, "postgres")) as connection:
        connection.cursor().execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@contextlib.contextmanager
def workspace(folder: Path, **settings: str) -> Iterator[Workspace]:
    """Make a virtual host and a database, and drop both at the end."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    environment = {**os.environ, **settings}
    make_virtual_host(environment, name)
    make_database(environment, name)
    place = Workspace(folder, name, settings)
    try:
        yield place
    finally:
        place.close()
        drop_database(environment, name)
        management(environment, "DELETE", f"vhosts/{name}")
