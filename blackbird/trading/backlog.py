"""Groups whose messages are taken up late: they are not traded before they have caught up."""

from __future__ import annotations

import logging

logger = logging.getLogger(__name__)


class Backlog:
    """The groups that have a backlog: their newest message waited longer than `max_lag_ms` (0: no bound).

    False while no group has one.
    """

    def __init__(self, max_lag_ms: int) -> None:
        self._max_lag_ms = max_lag_ms
        self._applied: dict[str, int] = {}  # late messages, by group

    def __bool__(self) -> bool:
        return bool(self._applied)

    def __contains__(self, key: str) -> bool:
        return key in self._applied

    def is_late(self, waited_ms: int) -> bool:
        """Return whether a message that waited so long is too old to be traded on."""
        return 0 < self._max_lag_ms < waited_ms

    def add(self, key: str) -> None:
        """Count a late message of a group."""
        self._applied[key] = self._applied.get(key, 0) + 1

    def end(self, key: str, waited_ms: int) -> bool:
        """Note a message of a group that is not late; return whether a backlog ends with it."""
        applied = self._applied.pop(key, 0)
        if applied:
            logger.info("group %s has caught up after %d late messages (%d ms)", key, applied, waited_ms)
        return applied > 0
