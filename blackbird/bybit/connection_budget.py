"""New connections to Bybit, kept within its limits."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator
from enum import IntEnum

from blackbird.bybit.connection import ConnectFailed
from blackbird.runtime.throttled_log import ThrottledLog

logger = logging.getLogger(__name__)

# Bybit allows 500 new connections in five minutes; some are left to what else connects from here.
CONNECTIONS = 450
CONNECTIONS_WINDOW = 300.0
# While no attempt succeeds, all attempts share one interval: the budget is needed when the exchange is back.
FAILURES_IN_A_ROW = 5
INTERVAL_WHILE_FAILING = 2.0
# Until the first of a crowd have failed, the others wait: an outage must not cost the budget.
ATTEMPTS_AT_ONCE = 50


class Priority(IntEnum):
    """Who connects first when not all may."""

    WAS_LIVE = 0
    FIRST_ATTEMPT = 1
    NEVER_LIVE = 2


# What a class leaves of the budget to those before it: streams that never come alive try without end.
LEFT_TO_OTHERS = {Priority.WAS_LIVE: 0, Priority.FIRST_ATTEMPT: 1 / 9, Priority.NEVER_LIVE: 2 / 9}


class ConnectionBudget:
    """Admits connection attempts as far as Bybit's limits allow, streams that were live first."""

    def __init__(self, connections: int = CONNECTIONS, window: float = CONNECTIONS_WINDOW) -> None:
        self._limits = {
            priority: connections - int(connections * share) for priority, share in LEFT_TO_OTHERS.items()
        }
        self._window = window
        self._opened: deque[float] = deque()
        self._failures = 0
        self._under_way = 0
        self._waiting: dict[Priority, deque[asyncio.Future[float]]] = {each: deque() for each in Priority}
        self._timer: asyncio.TimerHandle | None = None
        self._spent = ThrottledLog()

    @contextlib.asynccontextmanager
    async def slot(self, priority: Priority) -> AsyncIterator[None]:
        """Wait until a connection may be opened; the attempt is the body, and however it ends is counted."""
        opened = await self._admission(priority)
        try:
            yield
            self._failures = 0
        except ConnectFailed as error:
            if error.reached:
                self._failures += 1
            else:
                self._refund(opened)
            raise
        finally:
            self._under_way -= 1
            self._admit()

    async def _admission(self, priority: Priority) -> float:
        waiter: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._waiting[priority].append(waiter)
        self._admit()
        try:
            return await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled():  # cancelled between its admission and its next step
                self._under_way -= 1
                self._refund(waiter.result())
                self._admit()
            raise

    def _refund(self, opened: float) -> None:
        with contextlib.suppress(ValueError):  # it has left the window
            self._opened.remove(opened)

    def _admit(self) -> None:
        """Admit those who may connect now, and come back when the next one may."""
        now = asyncio.get_running_loop().time()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._opened and self._opened[0] <= now - self._window:
            self._opened.popleft()
        for priority, waiting in self._waiting.items():
            while waiting and self._under_way < ATTEMPTS_AT_ONCE:
                delay = self._delay(priority, now)
                if delay > 0:
                    self._timer = asyncio.get_running_loop().call_later(delay, self._admit)
                    return
                waiter = waiting.popleft()
                if not waiter.done():  # the others were given up
                    self._under_way += 1
                    self._opened.append(now)
                    waiter.set_result(now)

    def _delay(self, priority: Priority, now: float) -> float:
        """Return the seconds until the next of a class may connect."""
        failing = bool(self._opened) and self._failures >= FAILURES_IN_A_ROW
        interval = self._opened[-1] + INTERVAL_WHILE_FAILING - now if failing else 0.0
        over = len(self._opened) - self._limits[priority]
        spent = self._opened[over] + self._window - now if over >= 0 else 0.0
        if spent > INTERVAL_WHILE_FAILING:
            self._spent.warn(
                "%d connections in %.0f s, more are not allowed: %d streams wait %.0f s",
                len(self._opened),
                self._window,
                sum(map(len, self._waiting.values())),
                spent,
            )
        return max(interval, spent)
