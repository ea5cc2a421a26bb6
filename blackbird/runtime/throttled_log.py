"""A warning about a condition that lasts, logged at intervals."""

from __future__ import annotations

import asyncio
import logging

logger = logging.getLogger(__name__)


LOG_INTERVAL = 5.0


class ThrottledLog:
    """A warning about something that lasts, logged at once and then every few seconds."""

    def __init__(self) -> None:
        self._next = 0.0

    def warn(self, text: str, *arguments: object) -> None:
        """Log the warning unless it was logged a moment ago."""
        now = asyncio.get_running_loop().time()
        if now >= self._next:
            self._next = now + LOG_INTERVAL
            logger.warning(text, *arguments)

    def resolved(self, text: str, *arguments: object) -> None:
        """Log that it is over."""
        self._next = 0.0
        logger.info(text, *arguments)
