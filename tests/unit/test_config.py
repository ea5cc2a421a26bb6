"""Settings: what is accepted, what is refused in which words, and that no secret shows."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import config
from config import Config, InvalidSetting, read_settings
from tests.support.workspace import HERE, PYTHON

SECRETS = {
    "POSTGRES_PASSWORD": "database-secret",
    "RABBITMQ_DEFAULT_PASS": "broker-secret",
    "API_KEY": "key-secret",
    "API_SECRET": "exchange-secret",
}

SOURCES = ("benchmarks", "blackbird", "deploy", "launcher", "local_exchange")


@pytest.fixture(autouse=True)
def own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Keep the machine's settings out, and this test's away from the next."""
    for name in config.Settings.model_fields:
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "variables.env"
    monkeypatch.setattr(config, "VARIABLES_FILE", file)
    read_settings.cache_clear()
    yield file
    read_settings.cache_clear()


def refusal() -> str:
    with pytest.raises(InvalidSetting) as caught:
        read_settings()
    return str(caught.value)


def test_environment_wins_over_the_file_and_the_file_over_the_default(
    own_settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_settings.write_text("ORDERBOOK_DEPTH=200\nORDER_TIMEOUT_MS=1500\n")
    monkeypatch.setenv("ORDERBOOK_DEPTH", "1")
    assert (Config.ORDERBOOK_DEPTH, Config.ORDER_TIMEOUT_MS, Config.MAX_LAG_MS) == (1, 1500, 1000)


def test_names_of_settings_are_upper_case_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("orderbook_depth", "1")
    assert Config.ORDERBOOK_DEPTH == 50


def test_the_owners_names_are_readable() -> None:
    assert Config.DB_CONFIG == {
        "database": "postgres",
        "host": "localhost",
        "user": "postgres",
        "password": "guest",
        "port": "5433",
    }
    assert Config.BROKER_CONFIG["port"] == 5672
    assert Config.TABLES["order"].name == 'bybit."order"'
    assert str(Config.MAX_RISK_OPEN_POSITION) == "1000000"
    assert (Config.RABBITMQ_USER, Config.RABBITMQ_PASSWORD) == ("guest", "guest")
    assert (Config.DUMP_ORDERBOOK_TO_DB, Config.DUMP_ORDER_TO_DB, Config.REAL_ORDER_SENDING) == (
        True,
        True,
        False,
    )
    assert Config.JOURNAL_PATH == HERE / "journal"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("RABBITMQ_PORT", "many", "expected a whole number from 1 to 65535, was 'many'"),
        ("RABBITMQ_PORT", "", "expected a whole number from 1 to 65535, was ''"),
        ("POSTGRES_PORT", "65536", "expected a whole number from 1 to 65535, was '65536'"),
        ("POSTGRES_DB", "", "expected a value, was ''"),
        ("MAX_RISK_OPEN_POSITION", "0", "expected a number above zero, was '0'"),
        ("MAX_RISK_OPEN_POSITION", "NaN", "expected a number above zero, was 'NaN'"),
        ("MAX_RISK_OPEN_POSITION", "Infinity", "expected a number above zero, was 'Infinity'"),
        ("MAX_PRICE_RATIO", "0.9", "expected a number of at least 1, was '0.9'"),
        ("TAKER_FEE_SPOT", "0.1", "expected a number from 0 to 0.02, was '0.1'"),
        ("UNIQUE_ORDER", "yes", "expected true, false, 1 or 0, was 'yes'"),
        ("DUMP_ORDER_TO_DB", "", "expected true, false, 1 or 0, was ''"),
        ("RISK_MODEL", "var", "expected one of cash, position, was 'var'"),
        ("BYBIT_WS_URL", "ws:///x", "expected scheme://host or scheme://host:port, was 'ws:///x'"),
        ("BYBIT_WS_URL", "ws://x:99999", "expected scheme://host or scheme://host:port, was 'ws://x:99999'"),
        ("POSTGRES_PASSWORD", "", "expected a value"),
        (
            "RABBITMQ_CA_FILE",
            "no.pem",
            "expected a file of certificates (PEM; No such file or directory), was 'no.pem'",
        ),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: str
) -> None:
    monkeypatch.setenv(name, value)
    assert refusal() == f"{name}: {expected}"


@pytest.mark.parametrize(("word", "value"), [("true", True), ("1", True), ("False", False), ("0", False)])
def test_a_switch_takes_four_words(monkeypatch: pytest.MonkeyPatch, word: str, value: bool) -> None:
    monkeypatch.setenv("UNIQUE_ORDER", word)
    assert Config.UNIQUE_ORDER is value


@pytest.mark.parametrize(
    ("partitions", "engines", "engine", "expected"),
    [
        ("0", "2", "0", "SIGNAL_ENGINES: expected at most SIGNAL_PARTITIONS (0), was 2"),
        ("4", "5", "0", "SIGNAL_ENGINES: expected at most SIGNAL_PARTITIONS (4), was 5"),
        ("4", "2", "2", "SIGNAL_ENGINE: expected a number below SIGNAL_ENGINES (2), was 2"),
        ("4", "1", "1", "SIGNAL_ENGINE: expected a number below SIGNAL_ENGINES (1), was 1"),
    ],
)
def test_signal_engines_without_a_partition_are_refused(
    monkeypatch: pytest.MonkeyPatch, partitions: str, engines: str, engine: str, expected: str
) -> None:
    monkeypatch.setenv("SIGNAL_PARTITIONS", partitions)
    monkeypatch.setenv("SIGNAL_ENGINES", engines)
    monkeypatch.setenv("SIGNAL_ENGINE", engine)
    assert refusal() == expected


def test_collectors_without_a_partition_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLLECTORS", "2")
    assert refusal() == "COLLECTORS: expected at most SIGNAL_PARTITIONS (0), was 2"
    monkeypatch.setenv("SIGNAL_PARTITIONS", "4")
    monkeypatch.setenv("COLLECTOR", "2")
    assert refusal() == "COLLECTOR: expected a number below COLLECTORS (2), was 2"


def test_real_orders_without_keys_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REAL_ORDER_SENDING", "true")
    assert refusal() == "REAL_ORDER_SENDING: expected API_KEY and API_SECRET with it, were empty"


def test_real_orders_that_are_not_stored_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUMP_ORDER_TO_DB", "false")
    assert not read_settings().DUMP_ORDER_TO_DB
    read_settings.cache_clear()
    for name in ("REAL_ORDER_SENDING", "API_KEY", "API_SECRET"):
        monkeypatch.setenv(name, "1")
    assert refusal().startswith("DUMP_ORDER_TO_DB: expected true with REAL_ORDER_SENDING, was false")


@pytest.mark.parametrize(
    "settings",
    [{"DUMP_ORDER_TO_DB": "false"}, {"REAL_ORDER_SENDING": "1", "API_KEY": "1", "API_SECRET": "1"}],
)
def test_the_database_is_the_journal_of_stored_simulated_orders_alone(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str]
) -> None:
    monkeypatch.setenv("JOURNAL", "database")
    assert read_settings().JOURNAL == "database"
    read_settings.cache_clear()
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert refusal().startswith("JOURNAL: expected file with REAL_ORDER_SENDING or without DUMP_ORDER_TO_DB")


def test_importing_config_never_fails() -> None:
    environment = {**os.environ, "RABBITMQ_PORT": "many", "ORDERBOOK_DEPTH": "deep"}
    subprocess.run([PYTHON, "-c", "from config import Config"], cwd=HERE, env=environment, check=True)


def test_no_secret_shows_in_an_error_or_a_representation(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    settings = read_settings()
    shown = [repr(settings), str(settings), repr(settings.DB_CONFIG), repr(settings.BROKER_CONFIG)]
    shown += [config.settings_in_force(), repr(settings.API_KEY)]
    read_settings.cache_clear()
    monkeypatch.setenv("REAL_ORDER_SENDING", "perhaps")
    shown.append(refusal())
    read_settings.cache_clear()
    monkeypatch.setenv("REAL_ORDER_SENDING", "true")
    monkeypatch.setenv("POSTGRES_HOST", "203.0.113.7")
    monkeypatch.setenv("POSTGRES_PASSWORD", "guest")
    shown.append(refusal())
    assert not [(text, secret) for text in shown for secret in SECRETS.values() if secret in text]
    assert settings.DB_CONFIG["password"] == "database-secret"
    assert "database-secret" in f"{settings.DB_CONFIG['password']}"


def test_the_settings_in_force_are_one_line() -> None:
    line = config.settings_in_force()
    assert "\n" not in line
    assert [part.partition("=")[0] for part in line.split()] == config.setting_names()
    assert "MAX_RISK_OPEN_POSITION=1000000" in line
    assert "POSTGRES_PASSWORD=*** " in line
    assert "API_KEY= " in line


def test_a_start_shows_what_differs_from_the_defaults_and_at_debug_all(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MAX_BOOK_AGE_MS", "1234")
    monkeypatch.setenv("API_SECRET", SECRETS["API_SECRET"])
    read_settings.cache_clear()
    caplog.set_level("INFO")
    config.log_settings()
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "INFO"]
    assert " MAX_BOOK_AGE_MS=1234" in line
    assert "API_SECRET=***" in line
    assert "MAX_RISK_OPEN_POSITION" not in line
    caplog.clear()
    caplog.set_level("DEBUG")
    config.log_settings()
    (full,) = [record.getMessage() for record in caplog.records if record.levelname == "DEBUG"]
    assert config.settings_in_force() in full


def test_a_misspelt_name_is_reported_with_the_one_that_was_meant(
    own_settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_settings.write_text(
        "MAX_RISK_OPEN_POSITON=5\nSOMETHING_ELSE_ALTOGETHER=1\nBLACKBIRD_SHARED=../shared\n"
    )
    monkeypatch.setenv("ORDERBOOK_DEPHT", "1")
    monkeypatch.setenv("PGPASSWORD", "x")
    assert config.unknown_names() == {
        "MAX_RISK_OPEN_POSITON": "MAX_RISK_OPEN_POSITION",
        "SOMETHING_ELSE_ALTOGETHER": None,
        "ORDERBOOK_DEPHT": "ORDERBOOK_DEPTH",
    }


def test_a_line_of_the_file_that_is_no_variable_is_refused_without_its_text(own_settings: Path) -> None:
    own_settings.write_text('ORDERBOOK_DEPTH=50\n\nAPI_SECRET="never closed\n')
    assert refusal() == "variables.env line 3: expected NAME=value"


def test_the_documents_have_each_setting_with_its_default_and_what_it_takes() -> None:
    page = (HERE / "docs/settings.md").read_text()
    rows = re.findall(r"^\| `([A-Z_]+)` \| (.*?) \| (.*?) \| .+ \|$", page, re.MULTILINE)
    documented = {name: ("" if default == "empty" else default, takes) for name, default, takes in rows}
    assert len(rows) == len(documented)
    assert documented == {name: config.default_and_range(name) for name in config.setting_names()}


def test_compose_has_the_same_defaults_as_the_settings() -> None:
    compose = (HERE / "docker-compose.yml").read_text()
    defaults = dict(re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", compose))
    assert len(defaults) >= 12
    assert defaults == {name: config.default_and_range(name)[0] for name in defaults}


def test_every_setting_is_read_by_something() -> None:
    sources = [*HERE.glob("*.py"), *(path for name in SOURCES for path in (HERE / name).rglob("*"))]
    texts = [
        path.read_text() for path in sources if path.suffix in {".py", ".sh"} and path.name != "config.py"
    ]
    texts += [(HERE / "docker-compose.yml").read_text()]
    # Through DB_CONFIG, BROKER_CONFIG and the checks of config.py itself.
    texts += re.findall(r"self\.([A-Z_]+)", (HERE / "config.py").read_text())
    assert not [name for name in config.setting_names() if not any(name in text for text in texts)]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("db", [("db", 5433)]),
        ("db1, db2:5434", [("db1", 5433), ("db2", 5434)]),
        ("::1,[::1]:5434", [("::1", 5433), ("::1", 5434)]),
    ],
)
def test_servers_may_be_several_each_with_its_port(
    monkeypatch: pytest.MonkeyPatch, written: str, expected: list[tuple[str, int]]
) -> None:
    monkeypatch.setenv("POSTGRES_HOST", written)
    monkeypatch.setenv("RABBITMQ_HOST", written)
    monkeypatch.setenv("RABBITMQ_PORT", "5433")
    monkeypatch.setenv("ALLOW_REMOTE_GUEST", "true")
    settings = config.read_settings()
    hosts, ports = settings.DB_CONFIG["host"].split(","), settings.DB_CONFIG["port"].split(",")
    assert list(zip(hosts, map(int, ports), strict=True)) == expected
    assert settings.DB_CONFIG.get("target_session_attrs") == ("read-write" if len(expected) > 1 else None)
    broker = settings.BROKER_CONFIG
    assert [(broker["host"], broker["port"]), *broker["more_hosts"]] == expected


@pytest.mark.parametrize("written", ["", "a,,b", "a b", "db:0", "db:many", "amqp://db", "u@db"])
def test_a_list_of_servers_that_makes_no_sense_is_refused(
    monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    monkeypatch.setenv("RABBITMQ_HOST", written)
    with pytest.raises(config.InvalidSetting, match="RABBITMQ_HOST"):
        config.read_settings()


def test_guest_is_refused_where_one_of_several_hosts_is_not_local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RABBITMQ_HOST", "localhost,203.0.113.7:5673")
    with pytest.raises(config.InvalidSetting, match=r"203\.0\.113\.7"):
        config.read_settings()


def test_archive_is_relative_to_the_checkout_like_the_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Config.ARCHIVE_PATH == ""
    read_settings.cache_clear()
    monkeypatch.setenv("ARCHIVE_PATH", "kept/books")
    monkeypatch.chdir("/")
    assert str(HERE / "kept/books") == Config.ARCHIVE_PATH
    read_settings.cache_clear()
    monkeypatch.setenv("ARCHIVE_PATH", "/srv/books")
    assert Config.ARCHIVE_PATH == "/srv/books"
