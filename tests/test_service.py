"""The pace of an event loop, on a clock that the test moves."""

from __future__ import annotations

import selectors
import socket
from collections.abc import Iterator

import pytest

import service
from service import PacedSelector

PACE = 0.004


class Clock:
    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(round(seconds, 9))
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(service, "time", clock)
    return clock


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    with near, far:
        yield near, far


def test_what_comes_alone_is_seen_at_once_and_what_follows_together(
    clock: Clock, ends: tuple[socket.socket, socket.socket]
) -> None:
    near, far = ends
    with PacedSelector(PACE) as selector:
        selector.register(near, selectors.EVENT_READ)
        far.send(b"1")
        assert len(selector.select(None)) == 1
        assert clock.slept == []
        clock.now += PACE / 4
        assert len(selector.select(None)) == 1
        assert clock.slept == [PACE * 3 / 4]
        clock.now += PACE
        assert len(selector.select(None)) == 1
        assert clock.slept == [PACE * 3 / 4]


def test_a_loop_that_has_work_or_a_timer_is_not_kept(
    clock: Clock, ends: tuple[socket.socket, socket.socket]
) -> None:
    near, far = ends
    with PacedSelector(PACE) as selector:
        selector.register(near, selectors.EVENT_READ)
        far.send(b"1")
        assert selector.select(None)
        assert selector.select(0)
        assert clock.slept == []
        assert selector.select(PACE / 8)
        assert clock.slept == [PACE / 8]


def test_finding_nothing_begins_no_pause(clock: Clock, ends: tuple[socket.socket, socket.socket]) -> None:
    near, far = ends
    with PacedSelector(PACE) as selector:
        selector.register(near, selectors.EVENT_READ)
        assert selector.select(0.001) == []
        far.send(b"1")
        assert selector.select(None)
        assert clock.slept == []
