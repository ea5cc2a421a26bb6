"""The pace of an event loop, on a clock that the test moves; the ends of a socket pair stand for its own."""

from __future__ import annotations

import asyncio
import selectors
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from blackbird.runtime import paced_selector
from blackbird.runtime.paced_selector import IdleShare, LoadPace, PacedSelector

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


def test_the_first_file_has_to_be_the_socket_that_wakes_the_loop() -> None:
    with (
        PacedSelector(PACE) as selector,
        socket.create_server(("127.0.0.1", 0)) as listening,
        pytest.raises(RuntimeError),
    ):
        selector.register(listening, selectors.EVENT_READ)


def test_asyncio_registers_that_socket_first() -> None:
    asyncio.SelectorEventLoop(PacedSelector(PACE)).close()


# --- the pace under load -------------------------------------------------------------------------


class Load:
    """Messages at a rate, and the machine's idle share."""

    def __init__(self) -> None:
        self.now = 0.0
        self.idle = 0.0
        self.pace = LoadPace(
            0.003, calm=1000, busy=2000, idle_share=lambda: self.idle, clock=lambda: self.now
        )

    def run(self, rate: float, seconds: float) -> float:
        """Return the rest after some seconds of messages at a rate."""
        rest = -1.0
        for _ in range(round(seconds * 100)):
            self.now += 0.01
            self.pace.count(round(rate / 100))
            rest = self.pace()
        return rest


@pytest.mark.parametrize(
    ("rate", "idle", "rest"),
    [
        (0, 0.0, 0.0),
        (1000, 0.0, 0.0),
        (1500, 0.0, 0.0015),
        (2000, 0.0, 0.003),
        (9000, 0.1, 0.003),
        (9000, 0.25, 0.0015),
        (9000, 0.4, 0.0),
        (9000, 1.0, 0.0),
        (1500, 0.25, 0.00075),
    ],
)
def test_rests_grow_with_the_rate_as_far_as_the_machine_is_short_of_idle_time(
    rate: float, idle: float, rest: float
) -> None:
    load = Load()
    load.idle = idle
    assert load.run(rate, 10) == pytest.approx(rest, abs=1e-5)


def test_the_rest_follows_the_load_within_two_seconds_and_ignores_a_short_burst() -> None:
    load = Load()
    assert load.run(500, 5) == 0
    assert load.run(3000, 0.1) == 0
    assert load.run(3000, 2) > 0.0025
    assert load.run(500, 1) == 0


def test_the_idle_share_is_that_since_the_last_look(tmp_path: Path) -> None:
    source = tmp_path / "stat"
    source.write_text("cpu  100 0 100 700 100 0 0 0 5 5\ncpu0 ...\n")
    share = IdleShare(source)
    source.write_text("cpu  130 10 120 720 110 5 5 0 9 9\ncpu0 ...\n")
    assert share.measure() == pytest.approx(0.3)
    assert share.measure() == 0


@pytest.mark.parametrize("text", ["", "cpu\n", "nonsense here\n"])
def test_without_figures_the_idle_share_is_zero(tmp_path: Path, text: str) -> None:
    source = tmp_path / "stat"
    source.write_text(text)
    assert IdleShare(source).measure() == 0
    assert IdleShare(tmp_path / "missing").measure() == 0


def test_the_idle_share_of_this_machine_can_be_read() -> None:
    share = IdleShare()
    shares: list[float] = []
    while len(set(shares)) < 3:  # its ticks are a hundredth of a second
        shares.append(share.measure())
    assert all(0 <= each <= 1 for each in shares)
