"""Several database servers and broker nodes, and TLS to the database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest

from config import Config, Settings
from database_manager import DatabaseManager, DatabaseUnavailable
from tests.support.book_feed import BookFeed, book_message
from tests.support.certificates import make_certificate
from tests.support.own_postgres import OwnPostgres
from tests.support.workspace import Workspace, free_port, wait_for


def nothing(_: psycopg2.extensions.cursor) -> None:
    """Do nothing in a transaction."""


@pytest.fixture
def servers() -> Iterator[list[OwnPostgres]]:
    made = [OwnPostgres(), OwnPostgres()]
    yield made
    for server in made:
        server.remove()


def test_storage_goes_on_at_the_promoted_standby_and_at_the_next_node(
    place: Workspace, servers: list[OwnPostgres]
) -> None:
    primary, standby = servers
    primary.create()
    primary.make_database(place.name)
    standby.create_standby_of(primary)
    hosts = ",".join(f"127.0.0.1:{server.port}" for server in (standby, primary))
    storage = place.start_storage(
        POSTGRES_HOST=hosts,
        RABBITMQ_HOST=f"localhost:{free_port()},localhost:{Config.RABBITMQ_PORT}",
    )
    feed = BookFeed(place)
    counted = "SELECT count(*) FROM bybit.orderbook_update"
    feed.publish("storage", book_message("BTCUSDT", 1, bids=[("1", "1")]))
    wait_for(lambda: primary.query(counted) == [(1,)], "the first message at the primary")
    wait_for(lambda: standby.query(counted) == [(1,)], "the first message at the standby")
    primary.kill()
    feed.publish("storage", book_message("BTCUSDT", 2, bids=[("1", "1")]))
    standby.promote()
    wait_for(lambda: standby.query(counted) == [(2,)], "the second message at the promoted standby")
    assert storage.is_running
    assert place.waiting("storage.dead") == 0


def test_of_several_servers_one_that_is_read_only_is_not_taken(
    place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.query(f'ALTER DATABASE "{place.name}" SET default_transaction_read_only = on')
    monkeypatch.setenv("POSTGRES_DB", place.name)
    monkeypatch.setenv("POSTGRES_HOST", "localhost,127.0.0.1")
    with pytest.raises(DatabaseUnavailable, match="read-only"):
        DatabaseManager("test", Settings().DB_CONFIG).transaction(nothing)
    monkeypatch.setenv("POSTGRES_HOST", "localhost")
    DatabaseManager("test", Settings().DB_CONFIG).transaction(nothing)


def test_connections_to_the_database_are_encrypted_and_its_certificate_is_checked(
    servers: list[OwnPostgres], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = servers[0]
    own, foreign = make_certificate(tmp_path), make_certificate(tmp_path, "other")
    server.create(*server.use_certificate(own))
    monkeypatch.setenv("POSTGRES_HOST", f"localhost:{server.port}")
    monkeypatch.setenv("POSTGRES_TLS", "true")
    monkeypatch.setenv("POSTGRES_CA_FILE", str(own.file))

    def encrypted(cursor: psycopg2.extensions.cursor) -> bool:
        cursor.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        return cursor.fetchall() == [(True,)]

    assert DatabaseManager("test", Settings().DB_CONFIG).transaction(encrypted)
    monkeypatch.setenv("POSTGRES_CA_FILE", str(foreign.file))
    with pytest.raises(DatabaseUnavailable, match="certificate"):
        DatabaseManager("test", Settings().DB_CONFIG).transaction(encrypted)
    monkeypatch.setenv("POSTGRES_HOST", f"127.0.0.1:{server.port}")
    monkeypatch.setenv("POSTGRES_CA_FILE", str(own.file))
    with pytest.raises(DatabaseUnavailable, match=r"does not match host name|certificate"):
        DatabaseManager("test", Settings().DB_CONFIG).transaction(encrypted)
