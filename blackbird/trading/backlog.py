"""Groups whose messages are taken up late: they are not traded before they have caught up."""

from __future__ import annotations

import logging

logger = logging.getLogger(__name__)


NO_BOUND = 1 << 62


class Backlog:
    """The groups that have a backlog: their newest message waited longer than `max_lag_ms`.

    `groups` counts the late messages of each. A `max_lag_ms` of 0 is no bound.
    """

    def __init__(self, max_lag_ms: int) -> None:
        self.max_lag_ms = max_lag_ms or NO_BOUND
        self.groups: dict[str, int] = {}

    def add(self, key: str) -> None:
        """Count a late message of a group."""
        self.groups[key] = self.groups.get(key, 0) + 1

    def end(self, key: str, waited_ms: int) -> bool:
        """Note a message of a group that is not late; return whether a backlog ends with it."""
        applied = self.groups.pop(key, 0)
        if applied:
            logger.info("group %s has caught up after %d late messages (%d ms)", key, applied, waited_ms)
        return applied > 0
