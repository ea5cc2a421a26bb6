"""setup.sh on real servers: a pair of its own, on other ports, with its data in a temporary folder."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pika
import pytest
from pika.exceptions import ChannelClosedByBroker

from tests.support.setup_script import Setup, gone
from tests.support.workspace import free_port, free_ports, wait_for

HERE = Path(__file__).resolve().parents[2]
PASSWORD = "it's a #secret"

ROW = """
INSERT INTO bybit.orderbook (topic, type, ts_message, channel, symbol_name, update_id, sequence_id, side,
                             price, size, ts_orderbook, matching_key)
VALUES ('orderbook.50.BTCUSDT', 'delta', 1, 'spot', 'BTCUSDT', 1, 1, 'bid', 1, 1, 1, 'a')
"""
COUNT = "SELECT count(*) FROM bybit.orderbook"

# Without Docker, so that the test is the same everywhere; the containers have the same commands above them.
pytestmark = pytest.mark.skipif(shutil.which("apt-get") is None, reason="native servers come from apt")


def queue_is_there(setup: Setup, *, declare: bool = False) -> bool:
    """Whether the durable queue of the test is in the virtual host."""
    login = pika.PlainCredentials(setup.settings["RABBITMQ_DEFAULT_USER"], PASSWORD)
    port, vhost = int(setup.settings["RABBITMQ_PORT"]), setup.settings["RABBITMQ_VHOST"]
    with pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", port, vhost, login)) as connection:
        try:
            connection.channel().queue_declare("kept", durable=True, passive=not declare)
        except ChannelClosedByBroker:
            return False
    return True


def settings_of_pair(folder: Path) -> dict[str, str]:
    database, broker, management = map(str, free_ports(3))
    return {
        "INFRASTRUCTURE": "native",
        "POSTGRES_HOST": "localhost",
        "POSTGRES_PORT": database,
        "POSTGRES_USER": "bird",
        "POSTGRES_PASSWORD": PASSWORD,
        "POSTGRES_DB": "first",
        "PGDATA_PATH": str(folder / "pgdata"),
        "RABBITMQ_HOST": "localhost",
        "RABBITMQ_PORT": broker,
        "RABBITMQ_MANAGEMENT_PORT": management,
        "RABBITMQ_DEFAULT_USER": "bird",
        "RABBITMQ_DEFAULT_PASS": PASSWORD,
        "RABBITMQ_VHOST": "first",
        "RABBITMQ_DATA_PATH": str(folder / "rabbitmq_data"),
    }


def listens(port: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(port))) == 0


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A temporary folder that the servers' users may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="blackbird-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def started(folder: Path) -> Iterator[Setup]:
    setup = Setup(HERE, **settings_of_pair(folder))
    try:
        setup.succeed("start")
        yield setup
    finally:
        setup("stop")


@pytest.fixture
def pair(started: Setup) -> Setup:
    """The running pair, whatever an earlier test has stopped."""
    started.succeed("start")
    return started


@pytest.fixture
def database(folder: Path) -> Iterator[Setup]:
    """A database alone, not started yet."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        Path(name).chmod(0o755)
        setup = Setup(HERE, **settings_of_pair(Path(name)))
        try:
            yield setup
        finally:
            setup("stop", "database")


def another_checkout(folder: Path, original: Setup) -> Setup:
    """The same settings asked for from another checkout; what was fetched is shared."""
    checkout = folder / "another"
    if not checkout.exists():
        checkout.mkdir()
        for name in ("setup.sh", "deploy", "variables.env", "docker-compose.yml", ".tools", ".venv"):
            (checkout / name).symlink_to(HERE / name)
        (checkout / "setup.sh").unlink()
        for name in ("setup.sh", "config.py"):
            shutil.copy(HERE / name, checkout / name)
    own = {"PGDATA_PATH": str(checkout / "pgdata"), "RABBITMQ_DATA_PATH": str(checkout / "rabbitmq_data")}
    return Setup(checkout, **{**original.settings, **own})


def test_a_second_start_changes_nothing(pair: Setup) -> None:
    before = pair.process("database"), pair.process("broker")
    pair.query(ROW)
    rows = pair.query(COUNT)
    output = pair.succeed("start")
    assert "starting" not in output
    assert "creating" not in output
    assert (pair.process("database"), pair.process("broker")) == before
    assert pair.query(COUNT) == rows


def test_the_schema_says_what_it_found(pair: Setup) -> None:
    output = pair.succeed("start", "database")
    extension = pair.query("SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'")
    assert (f"TimescaleDB {extension}" if extension else "without TimescaleDB") in output
    chunked = "SELECT count(*) FROM timescaledb_information.hypertables WHERE hypertable_name = 'orderbook'"
    assert not extension or pair.query(chunked) == "1"


def test_a_missing_database_and_virtual_host_are_created(pair: Setup) -> None:
    other = pair.with_settings(POSTGRES_DB='odd "name', RABBITMQ_VHOST="odd /name")
    assert other("status").status == 1
    other.succeed("start")
    assert other("status").status == 0
    assert other.query("SELECT current_database()") == 'odd "name'
    assert "odd /name" in other.succeed("rabbitmqctl", "-q", "list_vhosts").splitlines()


def test_reset_empties_its_own_database_and_virtual_host_alone(pair: Setup) -> None:
    one, two = (pair.with_settings(POSTGRES_DB=name, RABBITMQ_VHOST=name) for name in ("one", "two"))
    for each in (one, two):
        each.succeed("start")
        each.query(f"TRUNCATE bybit.orderbook; {ROW}")
        assert queue_is_there(each, declare=True)
    assert "--yes" in one("reset").output
    assert one.query(COUNT) == "1"
    one.succeed("reset", "--yes")
    assert (one.query(COUNT), two.query(COUNT)) == ("0", "1")
    assert (queue_is_there(one), queue_is_there(two)) == (False, True)


@pytest.mark.parametrize(
    ("server", "setting"), [("database", "POSTGRES_PASSWORD"), ("broker", "RABBITMQ_DEFAULT_PASS")]
)
def test_other_credentials_are_an_error_that_says_so(pair: Setup, server: str, setting: str) -> None:
    before = pair.process(server)
    answer = pair.with_settings(**{setting: "wrong"})("start", server)
    assert answer.status == 1
    assert "refuses user bird" in answer.output
    assert setting in answer.output
    assert pair.process(server) == before


def test_a_server_without_a_free_connection_is_named_for_it(pair: Setup) -> None:
    pair.query("DROP ROLE IF EXISTS crowd; CREATE ROLE crowd LOGIN PASSWORD 'crowd' CONNECTION LIMIT 0")
    crowd = pair.with_settings(POSTGRES_USER="crowd", POSTGRES_PASSWORD="crowd")
    answer = crowd("start", "database")
    assert answer.status == 1
    assert "takes no more connections: too many connections for role" in answer.output
    limited = pair.with_settings(RABBITMQ_VHOST="limited")
    limited.succeed("start", "broker")
    limited.succeed("rabbitmqctl", "set_vhost_limits", "-p", "limited", '{"max-connections": 0}')
    answer = limited("start", "broker")
    assert answer.status == 1
    assert "takes no more connections: " in answer.output
    assert "connection limit" in answer.output


def test_something_else_on_the_port_is_an_error_that_says_so(pair: Setup) -> None:
    answer = pair.with_settings(POSTGRES_PORT=pair.settings["RABBITMQ_PORT"])("start", "database")
    assert answer.status == 1
    assert "not a usable database" in answer.output


def test_another_port_alone_is_an_error_that_says_so(pair: Setup) -> None:
    answer = pair.with_settings(POSTGRES_PORT=str(free_port()))("start", "database")
    assert answer.status == 1
    assert "another port" in answer.output


def test_another_checkout_uses_the_servers_and_leaves_them_running(pair: Setup, folder: Path) -> None:
    other = another_checkout(folder, pair)
    before = pair.process("database"), pair.process("broker")
    for command in ("start", "status", "stop"):
        output = other.succeed(command)
        assert output.count(f"run by the checkout in {HERE}") == 2, output
    assert (pair.process("database"), pair.process("broker")) == before


def test_stop_and_start_of_one_server_leave_the_other_and_the_data(pair: Setup) -> None:
    pair.query("CREATE TABLE IF NOT EXISTS kept (x int); INSERT INTO kept VALUES (1)")
    database, broker = pair.process("database"), pair.process("broker")
    pair.succeed("stop", "database")
    assert gone(database)
    assert not listens(pair.settings["POSTGRES_PORT"])
    assert pair.process("broker") == broker
    assert pair("status").status == 1
    pair.succeed("start", "database")
    assert pair.query("SELECT min(x) FROM kept") == "1"


def test_stop_of_the_broker_leaves_none_of_its_processes_and_all_its_data(pair: Setup) -> None:
    broker, name_service = pair.process("broker"), broker_ports(pair)[1]
    assert listens(name_service)
    assert queue_is_there(pair, declare=True)
    pair.succeed("stop", "broker")
    assert gone(broker)
    assert not listens(pair.settings["RABBITMQ_PORT"])
    wait_for(lambda: not listens(name_service), "the end of Erlang's name service")
    assert pair.process("database")
    pair.succeed("start", "broker")
    assert queue_is_there(pair)


def broker_ports(pair: Setup) -> list[str]:
    return (Path(pair.settings["RABBITMQ_DATA_PATH"]) / "native" / "ports").read_text().split()


def test_everything_listens_on_this_machine_only(pair: Setup) -> None:
    ours = {int(port) for port in (*broker_ports(pair), *(pair.settings[name] for name in PORTS))}
    addresses = {
        (line.split()[1].split(":")[0], int(line.split()[1].split(":")[1], 16))
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        if line.split()[3] == "0A"
    }
    found = {(address, port) for address, port in addresses if port in ours}
    assert {port for _, port in found} == ours
    assert {address for address, _ in found} <= {"0100007F", "0" * 24 + "01000000"}


PORTS = ("POSTGRES_PORT", "RABBITMQ_PORT", "RABBITMQ_MANAGEMENT_PORT")


def test_no_password_is_on_a_command_line_or_in_a_log(pair: Setup, folder: Path) -> None:
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert PASSWORD.encode() not in command.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
    logs = [path for path in folder.rglob("*.log") if path.is_file()]
    assert logs
    assert not [path for path in logs if PASSWORD in path.read_text(errors="replace")]
    assert pair("status").status == 0


def test_a_database_that_was_killed_starts_again(database: Setup) -> None:
    database.succeed("start", "database")
    database.query("CREATE TABLE kept AS SELECT 1 AS x")
    killed = database.process("database")
    os.kill(killed, 9)
    database.succeed("start", "database")
    assert database.process("database") != killed
    assert database.query("SELECT x FROM kept") == "1"


def test_two_starts_at_once_start_one_server(database: Setup) -> None:
    command = [str(HERE / "setup.sh"), "start", "database"]
    environment = {**os.environ, **database.settings}
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [each.communicate(timeout=60)[0] for each in both]
    assert [each.returncode for each in both] == [0, 0]
    assert "".join(outputs).count("starting PostgreSQL") == 1


def test_plain_postgresql_gets_the_same_tables(database: Setup) -> None:
    installed = [
        each
        for each in sorted(Path("/usr/lib/postgresql").glob("*/bin"))
        if (each / "initdb").exists()
        and not Path(f"/usr/share/postgresql/{each.parent.name}/extension/timescaledb.control").exists()
    ]
    if not installed:
        pytest.skip("no PostgreSQL without TimescaleDB is installed")
    plain = database.with_settings(POSTGRES_BIN_PATH=str(installed[-1]))
    assert "without TimescaleDB" in plain.succeed("start", "database")
    assert "without TimescaleDB" in plain.succeed("start", "database")
    assert (
        plain.query("SELECT to_regclass('bybit.orderbook'), to_regclass('bybit.\"order\"')")
        == 'orderbook|"order"'
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's servers run as another user")
def test_a_folder_closed_to_the_databases_user_is_no_obstacle(database: Setup) -> None:
    data = Path(database.settings["PGDATA_PATH"])
    data.parent.chmod(0o700)
    data.mkdir(mode=0o700)
    try:
        database.succeed("start", "database")
        assert database.query("SELECT 1") == "1"
        database.succeed("stop", "database")
    finally:
        shutil.rmtree((data / "native").resolve())


def own_checkout(folder: Path) -> Path:
    """A checkout whose tools and servers are its own; what was fetched once is linked to."""
    checkout = folder / "own checkout"
    shutil.copytree(HERE / "deploy", checkout / "deploy", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.sh", "config.py", "variables.env", "docker-compose.yml", "pyproject.toml"):
        shutil.copy(HERE / name, checkout)
    return checkout


@pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="no prometheus: ./run_tests.sh brings it as root"
)
def test_metrics_start_prometheus_and_the_brokers_own(pair: Setup, folder: Path) -> None:
    prometheus, metrics = map(str, free_ports(2))
    own = {"PROMETHEUS_PORT": prometheus, "RABBITMQ_METRICS_PORT": metrics}
    setup = pair.with_settings(**own, PROMETHEUS_DATA_PATH=str(folder / "prometheus"))
    try:
        assert "Grafana needs Docker" in setup.succeed("metrics")
        pid = int((folder / "prometheus" / "server.pid").read_text())
        assert "rabbitmq_queue_messages" in fetch(f"http://127.0.0.1:{metrics}/metrics")
        targets = f"http://127.0.0.1:{prometheus}/api/v1/targets"
        wait_for(lambda: fetch(targets).count('"health":"up"') == 2, "both jobs of the broker are up", 40)
        assert f"(process {pid})" in setup.succeed("metrics")
        # It is still so when the broker starts anew.
        setup.succeed("stop", "broker")
        setup.succeed("start", "broker")
        assert "rabbitmq_queue_messages" in fetch(f"http://127.0.0.1:{metrics}/metrics")
    finally:
        setup.succeed("metrics", "stop")
    assert gone(pid)
    assert not listens(prometheus)


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310
        text: str = answer.read().decode()
    return text


def test_uninstall_leaves_nothing_but_the_checkout(folder: Path) -> None:
    checkout = own_checkout(folder)
    files = sorted(path for path in checkout.rglob("*") if path.is_file())
    (checkout / ".venv").symlink_to(HERE / ".venv")
    (checkout / ".tools").mkdir()
    if (HERE / ".tools/timescaledb").exists():
        (checkout / ".tools/timescaledb").symlink_to((HERE / ".tools/timescaledb").resolve())
    own = {
        "PGDATA_PATH": "./pgdata",
        "RABBITMQ_DATA_PATH": "./elsewhere",
        "PROMETHEUS_PORT": str(free_port()),
    }
    setup = Setup(checkout, **{**settings_of_pair(folder), **own})
    # Root's servers run as another user, whose data is then kept outside of a checkout that is closed to it.
    checkout.chmod(0o700)
    setup.succeed("start", "database")
    data = (checkout / "pgdata/native").resolve()
    pid = int((data / "data/postmaster.pid").read_text().split()[0])
    assert "--yes" in setup("uninstall").output
    assert not gone(pid)
    setup.succeed("uninstall", "--yes")
    assert gone(pid)
    assert not data.exists()
    assert sorted(path for path in checkout.rglob("*") if path.is_file()) == files
    assert not [path for path in checkout.iterdir() if path.name.startswith((".", "pgdata", "elsewhere"))]


@pytest.mark.parametrize(
    ("setting", "value"),
    [("POSTGRES_PORT", "five"), ("RABBITMQ_PORT", "70000"), ("POSTGRES_DB", ""), ("INFRASTRUCTURE", "cloud")],
)
def test_a_setting_that_makes_no_sense_is_named(setting: str, value: str) -> None:
    answer = Setup(HERE, **{setting: value})("status")
    assert answer.status == 1
    assert answer.output.startswith(f"setup.sh: {setting}: expected ")


def test_containers_are_published_on_this_machine_only() -> None:
    text = (HERE / "docker-compose.yml").read_text()
    published = re.findall(r'^ +- "([^"]*:\d+)"$', text, re.MULTILINE)
    assert len(published) == 7
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_containers_and_native_servers_share_no_folder() -> None:
    text = (HERE / "docker-compose.yml").read_text()
    assert re.findall(r"- \$\{(\w+):-[^}]*\}/docker:", text) == ["PGDATA_PATH", "RABBITMQ_DATA_PATH"]


def test_the_compose_file_is_valid() -> None:
    command = compose_command()
    if command is None:
        pytest.skip("no docker compose")
    subprocess.run([*command, "-f", HERE / "docker-compose.yml", "config", "-q"], check=True)


def compose_command() -> list[str] | None:
    """Docker's plugin or the program of its own; neither needs an engine to check a file."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if (
            shutil.which(command[0])
            and subprocess.run([*command, "version"], capture_output=True, check=False).returncode == 0
        ):
            return command
    return None
