"""How many orders a second may be sent, before the exchange refuses them.

https://bybit-exchange.github.io/docs/v5/rate-limit: by default 10 a second on linear and 20 on spot, in
rolling seconds.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterable, Mapping

from blackbird.market.instrument import Instrument

# The share of the exchange's limits that opens use up, and that all orders do. What opens leave is for closes
# and unwinding, which never wait for them, the rest for the exchange's clock.
OPENS_SHARE = 0.8
ALL_SHARE = 0.9
WINDOW_SECONDS = 1.0


class OrderRates:
    """Counts what was sent in the last second of each channel; `per_second` are the exchange's limits."""

    def __init__(self, per_second: Mapping[str, int]) -> None:
        self._loop = asyncio.get_running_loop()
        self._opens = {channel: max(int(limit * OPENS_SHARE), 1) for channel, limit in per_second.items()}
        self._all = {channel: max(int(limit * ALL_SHARE), 1) for channel, limit in per_second.items()}
        self._sent: dict[str, deque[float]] = {channel: deque() for channel in per_second}
        self._paused_until: dict[str, float] = {}

    def take(self, legs: Iterable[Instrument]) -> bool:
        """Count one order for each of the legs of an open, or none and return False where one has no room."""
        return self._take(Counter(leg.channel for leg in legs), self._opens)

    async def wait(self, legs: Iterable[Instrument]) -> None:
        """Count one order for each leg of what must be sent, as soon as there is room for all of them."""
        wanted = Counter(leg.channel for leg in legs)
        while not self._take(wanted, self._all):
            await asyncio.sleep(self._seconds_until_room(wanted))

    def pause(self, channel: str, seconds: float) -> None:
        """Let nothing have room on a channel for so long: the exchange has refused for the rate."""
        self._paused_until[channel] = self._loop.time() + seconds

    def _take(self, wanted: Counter[str], limits: Mapping[str, int]) -> bool:
        now = self._loop.time()
        for channel, count in wanted.items():
            sent = self._sent[channel]
            while sent and sent[0] <= now - WINDOW_SECONDS:
                sent.popleft()
            if len(sent) + count > limits[channel] or now < self._paused_until.get(channel, 0):
                return False
        for channel, count in wanted.items():
            self._sent[channel].extend([now] * count)
        return True

    def _seconds_until_room(self, wanted: Counter[str]) -> float:
        now = self._loop.time()
        waits = [0.005]
        for channel, count in wanted.items():
            sent = self._sent[channel]
            surplus = len(sent) + count - self._all[channel]
            if surplus > 0:
                waits.append(sent[surplus - 1] + WINDOW_SECONDS - now)
            waits.append(self._paused_until.get(channel, 0) - now)
        return max(waits)
