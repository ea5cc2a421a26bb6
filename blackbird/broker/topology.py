"""RabbitMQ's exchange, routing keys and queues, with the arguments they are declared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pika
from pika.spec import BasicProperties

EXCHANGE = "data_feeder"
STORAGE = "storage"
SIGNAL = "signal"
SUBSCRIPTION = "subscription"
QUOTE = "quote"
RESYNC = "resync"
STATUS = "status"
FEEDS = "feeds"  # what is subscribed, with matching keys; only where the feed is divided into partitions
ORDERS = "orders"
# Replies to this address come by themselves to the channel that asked: a queue less on the way.
# https://www.rabbitmq.com/docs/direct-reply-to
DIRECT_REPLY = "amq.rabbitmq.reply-to"

# Last-value queues: one message each, kept for the next start ("At start only the newest map counts").
LATEST_SUBSCRIPTION = "subscription.latest"
COLLECTOR_SUBSCRIPTIONS = "collector.subscriptions"
COLLECTOR_NUMBERS = "collector.numbers"

# Arguments of the durable queues; one that is there with others is used as it is.
QUEUE_ARGUMENTS: Mapping[str, dict[str, Any]] = {
    # Of the queues that keep every message this kind costs the broker least, and a cluster replicates it. It
    # adds some latency, which books must not wait for. Without the limit RabbitMQ 4 drops a message that was
    # requeued 20 times.
    STORAGE: {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000},
    # Stale books may fall out; the gap in `u` that this leaves is mended by a snapshot.
    SIGNAL: {"x-max-length": 100_000},
    SUBSCRIPTION: {},
    QUOTE: {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000},
    LATEST_SUBSCRIPTION: {"x-max-length": 1},
    COLLECTOR_SUBSCRIPTIONS: {"x-max-length": 1},
    COLLECTOR_NUMBERS: {"x-max-length": 1},
    ORDERS: {},
}
FEED_QUEUES = {
    STORAGE: STORAGE,
    SIGNAL: SIGNAL,
    SUBSCRIPTION: SUBSCRIPTION,
    LATEST_SUBSCRIPTION: SUBSCRIPTION,
    QUOTE: QUOTE,
}
# Dead letters go after a week; their queues take no arguments, so that anybody may declare them.
DEAD_LETTER_EXPIRATION = str(7 * 24 * 3600 * 1000)
PERSISTENT = pika.DeliveryMode.Persistent
# A quorum queue of RabbitMQ 4 drops what was delivered and requeued 20 times, unless it was declared with
# another limit, and a last-value queue is one where the virtual host's default type is.
WORN_AFTER_DELIVERIES = 5


def is_worn(properties: BasicProperties) -> bool:
    """Return whether a message was requeued so often that a queue with a delivery limit may soon drop it."""
    count = (properties.headers or {}).get("x-delivery-count", 0)
    return isinstance(count, int) and count >= WORN_AFTER_DELIVERIES


def dead_letter_queue(queue: str) -> str:
    """Return the name of the queue for messages that `queue` cannot take."""
    return f"{queue}.dead"


def dead_letter_properties(queue: str, reason: str, properties: BasicProperties) -> BasicProperties:
    """Return the properties that a message gets in the dead-letter queue, the reason in a header."""
    return BasicProperties(
        delivery_mode=PERSISTENT,
        expiration=DEAD_LETTER_EXPIRATION,
        headers={"reason": reason[:1000], "queue": queue},
        correlation_id=properties.correlation_id,
    )
