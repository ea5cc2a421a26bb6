"""Which queues the feed is in: two, or two for each partition of the matching keys."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from blackbird.broker.topology import (
    COLLECTOR_NUMBERS,
    FEED_QUEUES,
    FEEDS,
    LATEST_SUBSCRIPTION,
    QUEUE_ARGUMENTS,
    QUOTE,
    SIGNAL,
    STORAGE,
    SUBSCRIPTION,
)

_QUORUM = {
    "x-queue-type": "quorum",
    "x-delivery-limit": 1_000_000,
    # Of a cluster's nodes each leads some of the partitions.
    "x-queue-leader-locator": "balanced",
}
# Arguments of the queues that there are only with partitions, by kind.
_PARTITIONED: Mapping[str, dict[str, Any]] = {
    STORAGE: _QUORUM,
    # One engine at a time has a partition, whoever consumes it too. Without the timeout RabbitMQ 4.3 waits a
    # minute for a consumer whose node is gone; other versions do not know the argument and do not wait.
    SIGNAL: {
        **_QUORUM,
        "x-max-length": 100_000,
        "x-single-active-consumer": True,
        "x-consumer-disconnected-timeout": 1000,
    },
    # Of a further collector.
    COLLECTOR_NUMBERS: QUEUE_ARGUMENTS[COLLECTOR_NUMBERS],
    # A stream: everybody who wants the newest reads it, and nobody takes it from the others.
    FEEDS: {
        "x-queue-type": "stream",
        "x-max-length-bytes": 20_000_000,
        "x-stream-max-segment-size-bytes": 2_000_000,
    },
}


def kind_of(queue: str) -> str:
    """Return what a queue is called without the number of its partition."""
    kind, _, number = queue.rpartition(".")
    return kind if number.isdigit() else queue


def queue_arguments(queue: str) -> dict[str, Any] | None:
    """Return what a durable queue is declared with, None for nothing; raises KeyError for other queues."""
    kind = kind_of(queue)
    known = QUEUE_ARGUMENTS if queue in QUEUE_ARGUMENTS else _PARTITIONED
    return known[kind] or None


@dataclass(frozen=True)
class FeedLayout:
    """The queues of a feed that is divided into so many partitions by matching key; with 0 it is not.

    The number stays what it is for the life of a deployment: what waits in a partition stays there.
    """

    partitions: int = 0

    def partition_of(self, matching_key: str) -> int:
        """Return the partition of a group, 0 where the feed is not divided."""
        return zlib.crc32(matching_key.encode()) % self.partitions if self.partitions else 0

    def queues(self, kind: str) -> list[str]:
        """Return the queues of `storage` or `signal`, in the order of their partitions."""
        return [f"{kind}.{number}" for number in range(self.partitions)] if self.partitions else [kind]

    def bindings(self) -> dict[str, str]:
        """Return the queues that are bound to the exchange, each with its routing key.

        With partitions the undivided queues are not there: they would fill. Their keys go on.
        """
        if not self.partitions:
            return FEED_QUEUES
        partitions = {queue: queue for kind in (STORAGE, SIGNAL) for queue in self.queues(kind)}
        return {**partitions, LATEST_SUBSCRIPTION: SUBSCRIPTION, QUOTE: QUOTE, FEEDS: FEEDS}


@dataclass(frozen=True)
class Share:
    """The groups of one of several collectors: those whose partition, modulo `collectors`, is `collector`."""

    layout: FeedLayout = FeedLayout()
    collector: int = 0
    collectors: int = 1

    def has(self, matching_key: str) -> bool:
        """Return whether a group is this collector's."""
        return self.layout.partition_of(matching_key) % self.collectors == self.collector

    @property
    def numbers_queue(self) -> str:
        """The queue that keeps the numbers this collector has reserved."""
        return f"{COLLECTOR_NUMBERS}.{self.collector}" if self.collector else COLLECTOR_NUMBERS
