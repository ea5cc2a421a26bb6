"""Warnings about a condition that lasts: at once, then at intervals, and at once again after its end."""

from __future__ import annotations

import logging

import pytest

from blackbird.runtime.throttled_log import LOG_SECONDS, ThrottledLog


class Clock:
    """A clock that stands until a test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_the_first_warning_is_logged_and_others_only_after_the_interval(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    throttled = ThrottledLog(clock)
    for second in range(12):
        throttled.warn("away for %d s", second)
        clock.now += 1
    assert messages(caplog) == ["away for 0 s", "away for 5 s", "away for 10 s"]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    assert LOG_SECONDS == 5


def test_a_condition_that_returns_after_its_end_is_logged_at_once(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    throttled = ThrottledLog(clock)
    with caplog.at_level(logging.INFO):
        throttled.warn("away")
        throttled.resolved("back at %s", "once")
        throttled.warn("away")
    assert messages(caplog) == ["away", "back at once", "away"]
