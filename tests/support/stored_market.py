"""A recorded market in the database of a test, as the storage service would have put it there."""

from __future__ import annotations

from collections.abc import Iterable

from pika.spec import BasicProperties

from blackbird.archive.source import Timed
from blackbird.storage.level_rows import message_rows
from blackbird.storage.orderbook_store import OrderbookStore, update_key
from blackbird.storage.update import Update
from config import Config
from database_manager import DatabaseManager
from tests.support.workspace import Workspace


def database_of(place: Workspace) -> DatabaseManager:
    """Return a connection to the test's database."""
    environment = place.environment
    where = {
        "host": environment.get("POSTGRES_HOST", Config.DB_CONFIG["host"]),
        "port": environment.get("POSTGRES_PORT", Config.DB_CONFIG["port"]),
        "database": place.name,
    }
    return DatabaseManager("test", {**Config.DB_CONFIG, **where})


def store(place: Workspace, messages: Iterable[Timed]) -> None:
    """Store messages, numbered in their order."""
    batch = {}
    for count, (published_at, message) in enumerate(messages):
        headers = {"published_at": published_at, "number": published_at * 1_000_000 + count % 1_000_000}
        lines, as_sent = message_rows(message)
        batch[update_key(message)] = Update(lines, BasicProperties(headers=headers), b"", as_sent)
    OrderbookStore(database_of(place), Config.TABLES["orderbook"]).add(batch)
