"""The pace of an event loop, on a clock that the test moves."""

from __future__ import annotations

import asyncio
import selectors
import socket
import threading
from collections.abc import Iterator

import pytest

from blackbird.runtime import paced_selector
from blackbird.runtime.paced_selector import PacedSelector

PACE = 0.004


class Clock:
    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now


class Watched(PacedSelector):
    """Rests on the clock."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(PACE)
        self._clock = clock

    def _rest(self, seconds: float) -> None:
        self._clock.slept.append(round(seconds, 9))
        self._clock.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(paced_selector, "time", clock)
    return clock


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    with near, far:
        yield near, far


@pytest.fixture
def selector(clock: Clock, ends: tuple[socket.socket, socket.socket]) -> Iterator[Watched]:
    """A selector that has something to find."""
    near, far = ends
    with Watched(clock) as selector:
        selector.register(near, selectors.EVENT_READ)
        far.send(b"1")
        yield selector


def test_what_comes_alone_is_seen_at_once_and_what_follows_together(clock: Clock, selector: Watched) -> None:
    assert len(selector.select(None)) == 1
    assert clock.slept == []
    clock.now += PACE / 4
    assert len(selector.select(None)) == 1
    assert clock.slept == [PACE * 3 / 4]
    clock.now += PACE
    assert len(selector.select(None)) == 1
    assert clock.slept == [PACE * 3 / 4]


def test_a_loop_that_has_work_or_a_timer_is_not_kept(clock: Clock, selector: Watched) -> None:
    assert selector.select(None)
    assert selector.select(0)
    assert clock.slept == []
    assert selector.select(PACE / 8)
    assert clock.slept == [PACE / 8]


def test_finding_nothing_begins_no_pause(
    clock: Clock, selector: Watched, ends: tuple[socket.socket, socket.socket]
) -> None:
    near, far = ends
    near.recv(1)
    assert selector.select(0.001) == []
    far.send(b"1")
    assert selector.select(None)
    assert clock.slept == []


def test_a_thread_that_wakes_the_loop_is_not_kept(ends: tuple[socket.socket, socket.socket]) -> None:
    near, far = ends
    resting = threading.Event()

    class Telling(PacedSelector):
        def _rest(self, seconds: float) -> None:
            resting.set()
            super()._rest(seconds)

    async def act() -> None:
        loop = asyncio.get_running_loop()
        read = asyncio.Event()
        asked = asyncio.Event()

        def ask() -> None:
            resting.wait(10)
            loop.call_soon_threadsafe(asked.set)

        far.send(b"1")
        loop.add_reader(near, read.set)
        await read.wait()
        near.recv(1)
        thread = threading.Thread(target=ask)
        thread.start()
        await asked.wait()
        thread.join()
        loop.remove_reader(near)

    selector = Telling(600)
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        runner.run(act())
