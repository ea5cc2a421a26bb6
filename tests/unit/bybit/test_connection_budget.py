"""The budget of new connections, in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

import pytest

from blackbird.bybit.connection import ConnectFailed
from blackbird.bybit.connection_budget import (
    ATTEMPTS_AT_ONCE,
    FAILURES_IN_A_ROW,
    INTERVAL_WHILE_FAILING,
    ConnectionBudget,
    Priority,
)
from tests.support import virtual_time

REACHED = ConnectFailed("503", reached=True)
NOT_REACHED = ConnectFailed("refused", reached=False)


class Attempts:
    """Attempts under a budget, and the seconds at which each was admitted."""

    def __init__(self, budget: ConnectionBudget) -> None:
        self._budget = budget
        self._begin = asyncio.get_running_loop().time()
        self._tasks: list[asyncio.Task[None]] = []
        self.admitted: list[tuple[str, float]] = []

    def now(self) -> float:
        return round(asyncio.get_running_loop().time() - self._begin, 6)

    def start(
        self,
        name: str = "",
        priority: Priority = Priority.WAS_LIVE,
        *,
        lasting: float = 0.0,
        error: Exception | None = None,
    ) -> asyncio.Task[None]:
        task = asyncio.create_task(self._attempt(name, priority, lasting, error))
        self._tasks.append(task)
        return task

    async def _attempt(self, name: str, priority: Priority, lasting: float, error: Exception | None) -> None:
        async with self._budget.slot(priority):
            self.admitted.append((name, self.now()))
            await asyncio.sleep(lasting)
            if error is not None:
                raise error

    async def done(self) -> list[float]:
        await asyncio.gather(*self._tasks, return_exceptions=True)
        return [at for _, at in self.admitted]


def play(work: Coroutine[Any, Any, None]) -> None:
    virtual_time.run(work)


def test_connections_stay_within_the_budget_of_every_window() -> None:
    async def act() -> None:
        attempts = Attempts(ConnectionBudget(3, 10.0))
        for _ in range(3):
            attempts.start()
            await asyncio.sleep(1)
        for _ in range(4):
            attempts.start()
        assert await attempts.done() == [0, 1, 2, 10, 11, 12, 20]

    play(act())


def test_what_never_reached_the_exchange_costs_nothing() -> None:
    async def act() -> None:
        attempts = Attempts(ConnectionBudget(1, 10.0))
        for _ in range(100):
            attempts.start(error=NOT_REACHED)
        assert await attempts.done() == [0] * 100

    play(act())


def test_attempts_share_one_interval_while_none_succeeds() -> None:
    async def act() -> None:
        attempts = Attempts(ConnectionBudget())
        for _ in range(FAILURES_IN_A_ROW):
            attempts.start(error=REACHED)
        await attempts.done()
        for error in (REACHED, REACHED, None, None, None):
            attempts.start(error=error)
        later = (await attempts.done())[FAILURES_IN_A_ROW:]
        third = 3 * INTERVAL_WHILE_FAILING
        assert later == [INTERVAL_WHILE_FAILING, 2 * INTERVAL_WHILE_FAILING, third, third, third]

    play(act())


def test_only_so_many_are_made_at_once() -> None:
    async def act() -> None:
        attempts = Attempts(ConnectionBudget())
        for _ in range(ATTEMPTS_AT_ONCE + 1):
            attempts.start(lasting=5)
        assert await attempts.done() == [0] * ATTEMPTS_AT_ONCE + [5]

    play(act())


@pytest.mark.parametrize("error", [RuntimeError("a fault"), ValueError("port"), REACHED, NOT_REACHED])
def test_a_failed_attempt_always_frees_its_slot(error: Exception) -> None:
    async def act() -> None:
        attempts = Attempts(ConnectionBudget(10_000, 1.0))
        for _ in range(ATTEMPTS_AT_ONCE):
            attempts.start(error=error)
        await attempts.done()
        attempts.start("next")
        await attempts.done()
        assert attempts.admitted[-1][0] == "next"

    play(act())


def test_a_cancelled_attempt_frees_its_slot() -> None:
    async def act() -> None:
        attempts = Attempts(ConnectionBudget(2, 10.0))
        under_way = [attempts.start(lasting=100) for _ in range(2)]
        waiting = [attempts.start("waits") for _ in range(3)]
        await asyncio.sleep(1)
        for task in (*under_way, *waiting[:2]):
            task.cancel()
        await attempts.done()
        assert attempts.admitted[2:] == [("waits", 10.0)]

    play(act())


def test_an_attempt_cancelled_right_after_its_admission_costs_nothing() -> None:
    async def act() -> None:
        budget = ConnectionBudget(1, 10.0)
        attempts = Attempts(budget)
        with contextlib.suppress(ConnectFailed):
            async with budget.slot(Priority.WAS_LIVE):
                second = attempts.start("second")
                await asyncio.sleep(1)
                raise NOT_REACHED
        second.cancel()  # admitted by the end of the first, and not there yet
        attempts.start("third")
        await attempts.done()
        assert attempts.admitted == [("third", 1.0)]

    play(act())


def test_streams_that_were_live_come_before_new_ones_and_these_before_those_that_never_were() -> None:
    async def act() -> None:
        attempts = Attempts(ConnectionBudget())
        for _ in range(FAILURES_IN_A_ROW):
            attempts.start(error=REACHED)
        await attempts.done()
        for priority in reversed(Priority):
            attempts.start(priority.name, priority, error=REACHED)
        await attempts.done()
        order = [name for name, _ in attempts.admitted[FAILURES_IN_A_ROW:]]
        assert order == ["WAS_LIVE", "FIRST_ATTEMPT", "NEVER_LIVE"]

    play(act())


def test_streams_that_never_were_live_leave_a_part_of_the_budget() -> None:
    async def act() -> None:
        attempts = Attempts(ConnectionBudget(90, 300.0))
        for priority in reversed(Priority):
            for _ in range(100):
                attempts.start(priority.name, priority)
            await asyncio.sleep(1)
        at_once = [name for name, at in attempts.admitted if at < 300]
        assert {priority.name: at_once.count(priority.name) for priority in Priority} == {
            "NEVER_LIVE": 70,
            "FIRST_ATTEMPT": 10,
            "WAS_LIVE": 10,
        }
        await attempts.done()

    play(act())


def test_a_live_stream_is_back_in_ten_seconds_with_the_budget_spent_by_others_that_fail() -> None:
    async def act() -> None:
        attempts = Attempts(ConnectionBudget())

        async def never_live() -> None:
            while True:
                await asyncio.wait([attempts.start("never", Priority.NEVER_LIVE, lasting=5, error=REACHED)])

        others = [asyncio.create_task(never_live()) for _ in range(60)]
        await asyncio.sleep(1000)
        lost = attempts.now()
        await asyncio.wait([attempts.start("live")])
        assert attempts.now() - lost <= 10
        for task in others:
            task.cancel()

    play(act())
