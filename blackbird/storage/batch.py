"""Deliveries that are written to the database together."""

from __future__ import annotations

from pika.spec import BasicProperties

from blackbird.storage.orderbook_store import UpdateKey


class Batch:
    """Deliveries that are written together; acknowledged up to the last one."""

    def __init__(self) -> None:
        self.lines: dict[UpdateKey, str] = {}
        self.sources: dict[UpdateKey, tuple[BasicProperties, bytes]] = {}
        self.last_tag = 0
        self.messages = 0
        self.begun = 0.0  # loop time of the first message
