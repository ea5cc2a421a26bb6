"""A session of the broker without a broker: what was published and declared, and deliveries by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from pika.spec import Basic, BasicProperties

from blackbird.broker.errors import SessionLost
from blackbird.broker.handler_edge import DeadLetter, guarded
from blackbird.broker.session import OnMessage, Session
from blackbird.runtime.failure_log import FailureLog


class FakeSession:
    """Keeps what a part of a service does to its session; `as_session` is what the part is given."""

    def __init__(self) -> None:
        self.published: list[tuple[str, str, bytes, BasicProperties]] = []
        self.dead_letters: list[tuple[str, str, bytes]] = []
        self.acknowledged: list[int] = []
        self.waiting: dict[str, list[bytes]] = {}
        self.peeked_properties = BasicProperties()
        self.consumers: dict[str, int] = {}
        self.is_lost = False
        self.on_publish: Callable[[], None] = lambda: None
        self.on_count: Callable[[], None] = lambda: None
        self._handlers: dict[str, Callable[..., None]] = {}
        self.failures = FailureLog()
        self._tag = 0

    @property
    def as_session(self) -> Session:
        return cast("Session", self)

    def deliver(self, queue: str, body: bytes, properties: BasicProperties | None = None) -> int:
        """Hand a message to the consumer of `queue`, and return its delivery tag."""
        self._tag += 1
        deliver = Basic.Deliver("tag", self._tag, False, "", queue)
        self._handlers[queue](cast("Any", None), deliver, properties or BasicProperties(), body)
        return self._tag

    async def declare_queue(self, name: str) -> int:
        return len(self.waiting.get(name, []))

    async def consume(
        self,
        queue: str,
        on_message: OnMessage,
        *,
        exclusive: bool = False,
        auto_ack: bool = False,
        label: str | None = None,
        dead_letter: DeadLetter | None = None,
    ) -> str:
        assert exclusive != auto_ack
        self._handlers[queue] = guarded(
            on_message, label or queue, dead_letter, self.acknowledge, self.failures
        )
        for body in self.waiting.pop(queue, []):
            self.deliver(queue, body)
        return "tag"

    async def peek(self, queue: str) -> tuple[BasicProperties, bytes] | None:
        waiting = self.waiting.get(queue)
        return (self.peeked_properties, waiting[0]) if waiting else None

    async def count_consumers(self, queue: str) -> int:
        self.on_count()
        return self.consumers.get(queue, 0)

    def publish(self, exchange: str, key: str, body: bytes, properties: BasicProperties) -> None:
        if self.is_lost:
            raise SessionLost("closed")
        self.published.append((exchange, key, body, properties))
        self.on_publish()

    def dead_letter(self, queue: str, reason: str, properties: BasicProperties, body: bytes) -> None:
        del properties
        if self.is_lost:
            raise SessionLost("closed")
        self.dead_letters.append((queue, reason, body))

    def acknowledge(self, delivery_tag: int, *, multiple: bool = False) -> None:
        assert not multiple
        self.acknowledged.append(delivery_tag)
