"""Requests a second of an account and of an address, over rolling windows.

https://bybit-exchange.github.io/docs/v5/rate-limit; values: the default level.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field

from local_exchange.private.api import ApiError, ExchangeClock

IP_WINDOW_SECONDS = 5.0
# "Terminate all HTTP sessions and wait for at least 10 minutes."
IP_BAN_SECONDS = 600.0


@dataclass
class Bucket:
    """What one kind of request has used of its limit."""

    limit: int
    # Seconds of a steady clock.
    times: deque[float] = field(default_factory=deque)
    most_in_a_second: int = 0
    refused: int = 0

    def used(self, now: float) -> int:
        """Return how many requests the last second had."""
        while self.times and self.times[0] <= now - 1:
            self.times.popleft()
        return len(self.times)


class RateLimits:
    """The limits of one account; a limit of 0 allows everything."""

    def __init__(self, orders: dict[str, int], lookups: int, ip_requests: int, clock: ExchangeClock) -> None:
        self._orders = orders
        self._lookups = lookups
        self._clock = clock
        self._ip_limit = ip_requests
        self._ip_times: deque[float] = deque()
        self._banned_until = 0.0
        self.buckets: dict[str, Bucket] = {}

    def check_address(self) -> None:
        """Count an HTTP request, whatever it is.

        Raises:
            ApiError: too many of them: HTTP 403 for the next ten minutes.
        """
        now = time.monotonic()
        self._ip_times.append(now)
        while self._ip_times[0] <= now - IP_WINDOW_SECONDS:
            self._ip_times.popleft()
        if self._ip_limit and len(self._ip_times) > self._ip_limit:
            self._banned_until = now + IP_BAN_SECONDS
        if now < self._banned_until:
            raise ApiError(10018, "access too frequent", 403)

    def forgive(self) -> None:
        """End a ban of the address."""
        self._banned_until = 0.0
        self._ip_times.clear()

    def take(self, endpoint: str, category: str) -> dict[str, str]:
        """Count a request of an account, and return the headers of its answer.

        Args:
            endpoint: `create` or `cancel` of an order, or the name of a look-up.
            category: of the instruments asked about, "" where there is none.

        Raises:
            LimitReached: the limit of this second is used up.
        """
        bucket = self._bucket(endpoint, category)
        now = time.monotonic()
        used = bucket.used(now)
        if bucket.limit and used >= bucket.limit:
            bucket.refused += 1
            wait_ms = int((bucket.times[0] + 1 - now) * 1000) + 1
            raise LimitReached(limit_headers(bucket.limit, 0, self._clock.ms() + wait_ms))
        bucket.times.append(now)
        bucket.most_in_a_second = max(bucket.most_in_a_second, used + 1)
        shown = bucket.limit or 1_000_000
        return limit_headers(shown, shown - used - 1, self._clock.ms())

    def _bucket(self, endpoint: str, category: str) -> Bucket:
        is_order = endpoint in {"create", "cancel"}
        name = f"{endpoint} {category}" if is_order else endpoint
        if name not in self.buckets:
            self.buckets[name] = Bucket(self._orders.get(category, 0) if is_order else self._lookups)
        return self.buckets[name]

    def describe(self) -> dict[str, dict[str, int]]:
        """Return what each bucket has seen."""
        return {
            name: {
                "limit": bucket.limit,
                "most_in_a_second": bucket.most_in_a_second,
                "refused": bucket.refused,
            }
            for name, bucket in self.buckets.items()
        }


class LimitReached(ApiError):
    """Too many requests in this second; `headers` go with the answer."""

    def __init__(self, headers: dict[str, str]) -> None:
        super().__init__(10006, "Too many visits. Exceeded the API Rate Limit.")
        self.headers = headers


def limit_headers(limit: int, left: int, reset_ms: int) -> dict[str, str]:
    """Return the headers that every answer about an account has."""
    return {
        "X-Bapi-Limit": str(limit),
        "X-Bapi-Limit-Status": str(left),
        "X-Bapi-Limit-Reset-Timestamp": str(reset_ms),
    }
