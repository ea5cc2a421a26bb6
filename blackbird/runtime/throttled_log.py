"""A warning about a condition that lasts, logged at intervals."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

LOG_SECONDS = 5.0


class ThrottledLog:
    """A warning about a condition that lasts, logged at once and then every `LOG_SECONDS`.

    `clock` returns seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next = float("-inf")

    def warn(self, text: str, *arguments: object) -> None:
        """Log the warning unless one was logged a moment ago."""
        now = self._clock()
        if now >= self._next:
            self._next = now + LOG_SECONDS
            logger.warning(text, *arguments)

    def resolved(self, text: str, *arguments: object) -> None:
        """Log that the condition is over; the next warning is logged at once."""
        self._next = float("-inf")
        logger.info(text, *arguments)
