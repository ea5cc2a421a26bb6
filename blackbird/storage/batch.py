"""Deliveries that are written to the database together."""

from __future__ import annotations

import contextlib
from typing import Generic, Protocol, TypeVar

from pika.spec import BasicProperties

from blackbird.broker.session import SessionLost
from blackbird.storage.update import Update

K = TypeVar("K")


class Deliverer(Protocol):
    """The broker session that brought the deliveries."""

    def acknowledge(self, delivery_tag: int, *, multiple: bool = False) -> None:
        """Acknowledge a delivery, with `multiple` all before it too; on an ended session nothing happens."""

    def requeue(self, delivery_tag: int) -> None:
        """Give a delivery and all before it back to the broker; on an ended session nothing happens."""

    def dead_letter(self, queue: str, reason: str, properties: BasicProperties, body: bytes) -> None:
        """Move a body that cannot be stored to the dead-letter queue; raises SessionLost."""


class Batch(Generic[K]):
    """Deliveries of `queue` on one session, written together and acknowledged up to the last one."""

    def __init__(self, queue: str, session: Deliverer | None = None) -> None:
        self.updates: dict[K, Update] = {}
        self.messages = 0
        self.dead_letters = 0
        self.begun = 0.0  # loop time of the first message
        self._queue = queue
        self._session = session
        self._last_tag = 0

    def count(self, delivery_tag: int) -> None:
        """Count a delivery; it is acknowledged with the others."""
        self._last_tag = delivery_tag
        self.messages += 1

    def add(self, key: K, update: Update) -> None:
        """Add the update of a delivery; of copies the first one stays."""
        self.updates.setdefault(key, update)

    def followed_by(self, later: Batch[K]) -> Batch[K]:
        """Return this batch with the deliveries of a later one.

        The later one alone where it is of another session: the broker redelivers what the ended one brought.
        """
        if later._session is not self._session:
            return later
        self.updates = later.updates | self.updates
        if later.messages:
            self._last_tag = later._last_tag
            self.messages += later.messages
            self.dead_letters += later.dead_letters
        return self

    def dead_letter(self, key: K, reason: str) -> None:
        """Move the message of an update to the dead-letter queue."""
        update = self.updates[key]
        self.dead_letter_message(reason, update.properties, update.body)

    def dead_letter_message(self, reason: str, properties: BasicProperties, body: bytes) -> None:
        """Move a message to the dead-letter queue."""
        self.dead_letters += 1
        # On a session that has ended it is not acknowledged either, so it is redelivered.
        with contextlib.suppress(SessionLost):
            if self._session is not None:
                self._session.dead_letter(self._queue, reason, properties, body)

    def acknowledge(self) -> None:
        """Acknowledge every delivery of the batch."""
        if self._session is not None and self.messages:
            self._session.acknowledge(self._last_tag, multiple=True)
