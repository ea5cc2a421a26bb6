"""The statuses of the services, as they come from the broker, in a thread of their own."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import pika
from pika.exceptions import AMQPError

from blackbird.broker.parameters import connection_parameters
from blackbird.broker.topology import EXCHANGE, STATUS
from blackbird.status.messages import Status

# Between ticks, and between attempts to reach a broker that is away.
TICK_SECONDS = 0.5

logging.getLogger("pika").setLevel(logging.CRITICAL + 1)
_decode = msgspec.json.Decoder(Status).decode


class StatusFeed:
    """Calls `on_status` with each status and `on_tick` twice a second, from its thread, until closed.

    `broker` is `Config.BROKER_CONFIG`.
    """

    def __init__(
        self, broker: Mapping[str, Any], on_status: Callable[[Status], None], on_tick: Callable[[], None]
    ) -> None:
        self._broker = broker
        self._on_status = on_status
        self._on_tick = on_tick
        self._closed = threading.Event()
        threading.Thread(target=self._run, name="status", daemon=True).start()

    def close(self) -> None:
        """Call nothing any more."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                self._follow()
            except (AMQPError, OSError):
                # Shown by the age of what there was.
                self._on_tick()
                self._closed.wait(TICK_SECONDS)

    def _follow(self) -> None:
        parameters = connection_parameters(**self._broker, name="launcher")
        with pika.BlockingConnection(parameters.of_each_host()) as connection:
            channel = connection.channel()
            channel.exchange_declare(EXCHANGE, exchange_type="topic", durable=True)
            queue = channel.queue_declare("", exclusive=True).method.queue
            channel.queue_bind(queue, EXCHANGE, STATUS)
            channel.basic_consume(queue, lambda *delivery: self._take(delivery[3]), auto_ack=True)
            while not self._closed.is_set():
                due = time.monotonic() + TICK_SECONDS
                while (left := due - time.monotonic()) > 0:
                    connection.process_data_events(left)
                self._on_tick()

    def _take(self, body: bytes) -> None:
        try:
            status = _decode(body)
        except msgspec.DecodeError:
            return  # anybody may publish to the key
        if not self._closed.is_set():
            self._on_status(status)
