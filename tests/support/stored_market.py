"""A recorded market in the database of a test, as the storage service would have put it there."""

from __future__ import annotations

from collections.abc import Iterable

from pika.spec import BasicProperties

from blackbird.archive.source import Timed
from blackbird.storage.orderbook_store import OrderbookStore, orderbook_lines, update_key
from blackbird.storage.update import Update
from config import Config
from database_manager import DatabaseManager
from tests.support.workspace import Workspace


def database_of(place: Workspace) -> DatabaseManager:
    """Return a connection to the test's database."""
    return DatabaseManager("test", {**Config.DB_CONFIG, "database": place.name})


def store(place: Workspace, messages: Iterable[Timed]) -> None:
    """Store messages, numbered in their order."""
    batch = {}
    for count, (published_at, message) in enumerate(messages):
        headers = {"published_at": published_at, "number": published_at * 1_000_000 + count % 1_000_000}
        batch[update_key(message)] = Update(orderbook_lines(message), BasicProperties(headers=headers), b"")
    OrderbookStore(database_of(place), Config.TABLES["orderbook"]).add(batch)
