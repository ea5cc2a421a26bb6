"""How far the exchange's clock is ahead of this machine's: https://bybit-exchange.github.io/docs/v5/market/time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from blackbird.bybit.rest import Rest, RestError

logger = logging.getLogger(__name__)

MEASURE_SECONDS = 60.0
# A request from a clock that is 1000 ms ahead is refused, whatever its window
# (https://bybit-exchange.github.io/docs/v5/guide#authentication).
LARGEST_OFFSET_MS = 800


class ServerClock:
    """Measures the offset now and then; `now` returns this machine's milliseconds since 1970."""

    def __init__(self, rest: Rest, now: Callable[[], int]) -> None:
        self._rest = rest
        self._now = now
        self.offset_ms = 0

    @property
    def is_off(self) -> bool:
        """Return whether the clocks differ so much that the exchange may refuse everything."""
        return abs(self.offset_ms) > LARGEST_OFFSET_MS

    async def measure(self) -> int:
        """Return the milliseconds by which the exchange is ahead, to half a round trip; raises RestError."""
        sent = self._now()
        result = await self._rest.call(lambda session: session.get_server_time())
        received = self._now()
        try:
            server = int(result["timeNano"]) // 1_000_000
        except (LookupError, TypeError, ValueError):
            raise RestError("expected the time in nanoseconds, was something else") from None
        self.offset_ms = server - (sent + received) // 2
        return self.offset_ms

    async def run(self) -> None:
        """Measure now and once a minute."""
        while True:
            was_off = self.is_off
            try:
                offset = await self.measure()
            except RestError as error:
                logger.warning("the exchange's time is not known: %s", error)
            else:
                if self.is_off != was_off:
                    logger.error("the exchange's clock is %d ms ahead: synchronise this machine's", offset)
            await asyncio.sleep(MEASURE_SECONDS)
