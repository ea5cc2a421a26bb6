"""Programming errors at a service's edge."""

from __future__ import annotations

import logging

import pytest

from blackbird.runtime.failure_log import FailureLog


def fail() -> None:
    raise KeyError("x")


def fail_elsewhere() -> None:
    raise KeyError("x")


def test_traceback_is_logged_once_for_each_place_and_then_ever_more_seldom(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failures = FailureLog()
    guarded = failures.guard("counting", fail)
    with caplog.at_level(logging.ERROR):
        for _ in range(1000):
            guarded()
        failures.guard("counting", fail_elsewhere)()
    tracebacks = [record for record in caplog.records if record.exc_info]
    assert len(tracebacks) == 2
    assert len(caplog.records) == 2 + 9
    assert sorted(failures.counts.values()) == [1, 1000]


def test_guarded_callback_is_called_with_what_it_is_given() -> None:
    calls: list[tuple[int, str]] = []

    def callback(number: int, *, name: str) -> None:
        calls.append((number, name))

    FailureLog().guard("calling", callback)(1, name="a")
    assert calls == [(1, "a")]


def test_cancellation_and_exit_are_not_failures() -> None:
    def leave() -> None:
        raise SystemExit(1)

    with pytest.raises(SystemExit):
        FailureLog().guard("leaving", leave)()
