"""How many messages and consumers the broker's queues have.

`python -m launcher.queues` prints the queues of RABBITMQ_VHOST that services consume, for `setup.sh reset`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pika
from pika.exceptions import AMQPError, ChannelClosedByBroker

from blackbird.broker.feed_layout import FeedLayout
from blackbird.broker.session import connection_parameters
from blackbird.broker.topology import ORDERS, SIGNAL, STORAGE
from config import Config

NOT_FOUND = 404

# pika warns of a queue that does not exist, which is an answer here.
logging.getLogger("pika").setLevel(logging.CRITICAL + 1)


class BrokerUnavailableError(Exception):
    """The broker does not answer; the text says why."""


@dataclass(frozen=True)
class QueueState:
    """Messages ready for delivery, and consumers."""

    messages: int
    consumers: int


def look_up(broker: Mapping[str, Any], *queues: str) -> dict[str, QueueState]:
    """Return the state of each queue; one that does not exist has no messages and no consumers.

    `broker` is `Config.BROKER_CONFIG`. Raises BrokerUnavailableError.
    """
    states = {}
    try:
        connection = pika.BlockingConnection(connection_parameters(**broker, name="launcher").of_each_host())
        try:
            for queue in queues:
                states[queue] = _look_up(connection, queue)
        finally:
            connection.close()
    except (AMQPError, OSError) as error:
        raise BrokerUnavailableError(f"the broker does not answer: {error!r}") from None
    return states


def _look_up(connection: pika.BlockingConnection, queue: str) -> QueueState:
    channel = connection.channel()
    try:
        declared = channel.queue_declare(queue, passive=True).method
    except ChannelClosedByBroker as error:
        if error.reply_code != NOT_FOUND:
            raise
        return QueueState(0, 0)
    channel.close()
    return QueueState(declared.message_count, declared.consumer_count)


def main() -> None:
    """Print the queues that have consumers, none where the broker or the virtual host is not there."""
    with contextlib.suppress(BrokerUnavailableError):
        layout = FeedLayout(Config.SIGNAL_PARTITIONS)
        queues = (*layout.queues(STORAGE), *layout.queues(SIGNAL), ORDERS)
        states = look_up(Config.BROKER_CONFIG, *queues)
        print(" ".join(queue for queue, state in states.items() if state.consumers))


if __name__ == "__main__":
    main()
