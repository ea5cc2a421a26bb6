"""Which deliveries of the book queue may be acknowledged."""

from __future__ import annotations

from collections.abc import Callable

# Deliveries are acknowledged so many at a time, or when a timer flushes those that are left.
ACKNOWLEDGE_EVERY = 500


class AckTracker:
    """Acknowledges deliveries in order, up to the oldest one that is pending.

    `acknowledge` is given a delivery tag, and acknowledges all deliveries up to it.
    """

    def __init__(self, acknowledge: Callable[[int], None]) -> None:
        self._acknowledge = acknowledge
        self._delivered = 0  # delivery tags
        self._acknowledged = 0
        self._pending: dict[int, None] = {}  # in order of delivery
        self._kept: set[int] = set()

    def restart(self) -> None:
        """Begin anew with the tags of a new session: what was pending will be redelivered."""
        self._pending.clear()
        self._kept.clear()
        self._delivered = self._acknowledged = 0

    def hold(self, delivery_tag: int) -> None:
        """Keep a delivery from being acknowledged; deliveries are held in order."""
        self._pending[delivery_tag] = None

    def release(self, delivery_tag: int) -> None:
        """Let a delivery that was held be acknowledged."""
        del self._pending[delivery_tag]

    def keep(self, delivery_tag: int) -> None:
        """Keep a delivery that is processed from being acknowledged until `let_go`."""
        self._kept.add(delivery_tag)

    def let_go(self, delivery_tag: int) -> None:
        """Let a delivery that was kept be acknowledged."""
        self._kept.discard(delivery_tag)

    def delivered(self, delivery_tag: int) -> None:
        """Note that a delivery, and all before it, are processed or held."""
        self._delivered = delivery_tag
        if delivery_tag - self._acknowledged >= ACKNOWLEDGE_EVERY:
            self.flush()

    def flush(self) -> None:
        """Acknowledge everything before the oldest delivery that is pending or kept."""
        last = next(iter(self._pending)) - 1 if self._pending else self._delivered
        if self._kept:
            last = min(last, min(self._kept) - 1)
        if last > self._acknowledged:
            self._acknowledged = last
            self._acknowledge(last)
