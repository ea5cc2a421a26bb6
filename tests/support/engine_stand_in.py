"""A test in the trading engine's place: it takes what the signal engine sends and answers as it likes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple

import pika

from tests.support.workspace import DEADLINE, Workspace, encode

ACK = {"status": "ACK", "info": "order placed"}


class Asked(NamedTuple):
    """An order as it came, and where its answer goes."""

    order: dict[str, Any]
    reply_to: str
    correlation_id: str


class EngineStandIn:
    """Consumes `orders`. Answers the question for `spreads` at once where `answers_questions` is set."""

    def __init__(self, place: Workspace, *, answers_questions: bool = True) -> None:
        self._channel = place.channel()
        self._channel.queue_declare("orders", durable=True)
        self._channel.basic_consume("orders", self._take, auto_ack=True)
        self.answers_questions = answers_questions
        self.spreads: list[dict[str, Any]] = []
        self.questions: list[Asked] = []
        self.answered = 0  # questions
        self.asked: list[Asked] = []

    def pump(self, seconds: float = 0.02) -> None:
        self._channel.connection.process_data_events(seconds)

    def wait_for(self, condition: Callable[[], object], what: str, seconds: float = DEADLINE) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"not within {seconds} s: {what}; asked: {self.asked}"
            self.pump()

    def next_order(self) -> Asked:
        """Return the next order and forget it."""
        self.wait_for(lambda: self.asked, "an order")
        return self.asked.pop(0)

    def reply(self, asked: Asked, answer: dict[str, Any]) -> None:
        properties = pika.BasicProperties(correlation_id=asked.correlation_id)
        self._channel.basic_publish("", asked.reply_to, encode(answer), properties)

    def execute(self) -> dict[str, Any]:
        """ACK the next order and return it."""
        asked = self.next_order()
        self.reply(asked, ACK)
        return asked.order

    def is_quiet_until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for something else, and fail where an order came first."""
        self.wait_for(condition, what)
        assert not self.asked

    def answer_question(self) -> None:
        asked = self.questions.pop(0)
        self.reply(asked, {"status": "ACK", "info": "open spreads", "open_spreads": self.spreads})
        self.answered += 1

    def _take(self, _c: Any, _m: Any, properties: pika.BasicProperties, body: bytes) -> None:
        order = json.loads(body, parse_float=Decimal)
        asked = Asked(order, str(properties.reply_to), str(properties.correlation_id))
        if order["action"] == "List Open Spreads":
            self.questions.append(asked)
            if self.answers_questions:
                self.answer_question()
        else:
            self.asked.append(asked)
