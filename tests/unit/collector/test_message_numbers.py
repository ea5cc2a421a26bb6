"""Numbers of messages rise over restarts, on clocks that a test sets as it likes."""

from __future__ import annotations

import pytest

from blackbird.collector.message_numbers import RESERVED_NS, MessageNumbers

NOW = 1_795_395_127_000_000_000


class Collectors:
    """Collectors one after the other, with the broker that keeps their newest reservation."""

    def __init__(self) -> None:
        self.now = NOW
        self.kept: bytes | None = None
        self.reservations = 0
        self.published: list[int] = []
        self.restart()

    def restart(self) -> None:
        self.numbers = MessageNumbers(lambda: self.now)
        self.reconnect()

    def reconnect(self) -> None:
        self.numbers.start(self.kept)

    def publish(self, count: int = 1, *, every_ns: int = 1) -> None:
        """Publish messages as the publisher does."""
        for _ in range(count):
            number = self.numbers.next()
            if number >= self.numbers.reserved_end:
                self.kept = self.numbers.reserve(number)
                self.reservations += 1
            self.published.append(number)
            self.now += every_ns

    @property
    def rise(self) -> bool:
        return all(a < b for a, b in zip(self.published, self.published[1:], strict=False))


def test_number_is_the_time_where_the_clock_moves() -> None:
    collectors = Collectors()
    collectors.publish(3, every_ns=7)
    assert collectors.published == [NOW, NOW + 7, NOW + 14]


def test_numbers_rise_while_the_clock_stands_still_or_goes_back() -> None:
    collectors = Collectors()
    collectors.publish(3, every_ns=0)
    collectors.publish(3, every_ns=-1_000_000)
    assert collectors.published == list(range(NOW, NOW + 6))


@pytest.mark.parametrize("published", [1, 2, 1000, 2500])
def test_numbers_rise_over_a_restart_on_a_clock_that_was_set_back(published: int) -> None:
    collectors = Collectors()
    collectors.publish(published, every_ns=1_000_000)
    collectors.now -= 3600 * 1_000_000_000
    for _ in range(3):
        collectors.restart()
        collectors.publish(5)
    assert collectors.rise


def test_numbers_are_the_time_again_once_the_clock_is_past_what_was_reserved() -> None:
    collectors = Collectors()
    collectors.publish()
    collectors.now += RESERVED_NS
    collectors.restart()
    now = collectors.now
    collectors.publish()
    assert collectors.published[-1] == now


def test_a_second_of_messages_takes_one_reservation() -> None:
    collectors = Collectors()
    collectors.publish(10_001, every_ns=1_000_000)
    assert collectors.reservations == 11


def test_each_session_reserves_anew_without_skipping_its_own_numbers() -> None:
    collectors = Collectors()
    collectors.publish(2)
    collectors.reconnect()
    collectors.publish(2)
    assert collectors.reservations == 2
    assert collectors.published == list(range(NOW, NOW + 4))


def test_numbers_of_another_collector_between_two_sessions_are_not_used_again() -> None:
    collectors = Collectors()
    collectors.publish()
    collectors.kept = b"%d" % (NOW + 50 * RESERVED_NS)
    collectors.reconnect()
    collectors.publish()
    assert collectors.published[-1] >= NOW + 50 * RESERVED_NS


@pytest.mark.parametrize("kept", [b"", b"soon", b"-5", b"1.5", b"9" * 19, b"1" * 5000, "\u0665".encode()])
def test_malformed_reservation_is_ignored(kept: bytes) -> None:
    collectors = Collectors()
    collectors.kept = kept
    collectors.restart()
    collectors.publish()
    assert collectors.published == [NOW]
