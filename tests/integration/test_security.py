"""Settings that make no sense, credentials that must not show, hosts that must not be trusted by default."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.book_feed import BookFeed
from tests.support.order_client import OrderClient, new_order
from tests.support.workspace import HERE, PYTHON, Workspace, wait_for

SERVICES = ["market_data_collector", "data_storage", "signal", "trading_engine"]


def ending(service: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a service that is expected to end by itself."""
    command = [PYTHON, str(HERE / f"{service}_service.py")]
    # Should it not end, it must not work with what is the user's.
    environment = {**os.environ, "RABBITMQ_VHOST": "nowhere", "POSTGRES_DB": "nowhere", **settings}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20, check=False)


@pytest.mark.parametrize(
    ("service", "variable", "value"),
    [
        *[(service, "RABBITMQ_PORT", "many") for service in SERVICES],
        ("signal", "RABBITMQ_PORT", "0"),
        ("signal", "POSTGRES_PORT", "65536"),
        ("signal", "MAX_BOOK_AGE_MS", "-1"),
        ("signal", "ORDER_TIMEOUT_MS", "soon"),
        ("trading_engine", "MAX_RISK_OPEN_POSITION", "0"),
        ("trading_engine", "MAX_RISK_OPEN_POSITION", "NaN"),
        ("trading_engine", "UNIQUE_ORDER", "yes"),
        ("trading_engine", "DUMP_ORDER_TO_DB", "2"),
        ("trading_engine", "DUMP_ORDER_TO_DB", ""),
        ("trading_engine", "REAL_ORDER_SENDING", "true"),
        ("trading_engine", "JOURNAL_PATH", "/dev/null/journal"),
        ("trading_engine", "BYBIT_ENVIRONMENT", "moon"),
        ("data_storage", "DUMP_ORDERBOOK_TO_DB", "on"),
        ("data_storage", "LOG_LEVEL", "loud"),
    ],
)
def test_setting_that_makes_no_sense_is_one_line_that_names_it(
    service: str, variable: str, value: str
) -> None:
    ended = ending(service, **{variable: value})
    assert ended.returncode not in {0, -15}
    said = (ended.stdout + ended.stderr).strip()
    assert said.count("\n") == 0, said
    assert variable in said
    assert "expected" in said


@pytest.mark.parametrize("variable", ["RABBITMQ_HOST", "POSTGRES_HOST"])
def test_guest_is_refused_for_a_host_that_is_not_local(variable: str) -> None:
    ended = ending("data_storage", **{variable: "203.0.113.7"})
    assert ended.returncode not in {0, -15}
    said = (ended.stdout + ended.stderr).strip()
    assert said.count("\n") == 0
    assert variable in said
    assert "ALLOW_REMOTE_GUEST" in said


def test_guest_is_allowed_for_another_host_where_somebody_says_so(place: Workspace) -> None:
    started = place.start("data_storage", RABBITMQ_HOST="127.0.0.2", ALLOW_REMOTE_GUEST="true")
    assert "127.0.0.2" in started.first_warning()
    assert started.stop() == 0


def test_switches_take_any_of_their_four_words(place: Workspace) -> None:
    for value in ("true", "1"):
        started = place.start_storage(DUMP_ORDERBOOK_TO_DB=value)
        assert "DUMP_ORDERBOOK_TO_DB is off" not in started.output
        assert started.stop() == 0
    for value in ("false", "0"):
        started = place.start_storage(DUMP_ORDERBOOK_TO_DB=value)
        assert "DUMP_ORDERBOOK_TO_DB is off" in started.first_warning()
        assert started.stop() == 0


def test_no_secret_in_a_log_line_or_on_a_command_line(place: Workspace) -> None:
    secrets = {
        "RABBITMQ_DEFAULT_PASS": "wrong-broker-secret",
        "POSTGRES_PASSWORD": "wrong-database-secret",
        "API_KEY": "key-of-nobody",
        "API_SECRET": "secret-of-nobody",
    }
    refused_by_broker = place.start("trading_engine", **secrets)
    assert "refuses access" in refused_by_broker.first_warning()
    refused_by_database = place.start(
        "trading_engine", **{**secrets, "RABBITMQ_DEFAULT_PASS": "guest"}, LOG_LEVEL="DEBUG"
    )
    assert "recovery pending, orders are held" in refused_by_database.first_warning()
    storage = place.start("data_storage", **{**secrets, "RABBITMQ_DEFAULT_PASS": "guest"}, LOG_LEVEL="DEBUG")
    feed = BookFeed(place)
    feed.publish("storage", b"nonsense")
    wait_for(lambda: "dead-lettered" in storage.output)
    for service in (refused_by_broker, refused_by_database, storage):
        command_line = Path(f"/proc/{service.process.pid}/cmdline").read_bytes().decode()
        for secret in secrets.values():
            assert secret not in service.output
            assert secret not in command_line
        assert service.stop() == 0


def test_words_that_look_like_sql_are_stored_as_words(place: Workspace) -> None:
    place.start_engine()
    client = OrderClient(place)
    words = 'x\'); DROP TABLE bybit."order"; --'
    order = new_order(order_id=words, spread_id=words, buy=["linear", words])
    assert client.ask(order)["status"] == "ACK"
    query = "SELECT order_id, spread_id, symbol_name FROM bybit.\"order\" WHERE type = 'buy'"
    assert wait_for(lambda: place.query(query)) == [(words, words, words)]
