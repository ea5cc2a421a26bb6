"""When a snapshot of a book is requested, and what is said when none comes."""

from __future__ import annotations

import itertools
import logging

import pytest

from blackbird.market.instrument import Instrument
from blackbird.signals.snapshot_requests import LONGEST_BACKOFF, SnapshotRequests

A = Instrument("spot", "A")
B = Instrument("spot", "B")


class Collector:
    """Counts the requests by the second in which they come; books have gaps as the test says."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.asked: list[tuple[Instrument, float]] = []
        self.gaps: dict[Instrument, int] = {}
        self.requests = SnapshotRequests(
            lambda instrument: self.asked.append((instrument, self.now - 1000)),
            lambda instrument: self.gaps.get(instrument, 0),
            lambda: self.now,
        )

    def go_on(self, seconds: float, *needed: Instrument) -> None:
        """Let time pass in steps of 50 ms."""
        for _ in range(round(seconds * 20)):
            self.requests.update(needed)
            self.now = round(self.now + 0.05, 2)


def test_requests_of_one_book_back_off() -> None:
    collector = Collector()
    collector.go_on(200, A)
    times = [time for _, time in collector.asked]
    pauses = [round(later - earlier, 2) for earlier, later in itertools.pairwise(times)]
    assert pauses == [0.5, 1, 2, 4, 8, 16, LONGEST_BACKOFF, 30, 30, 30, 30]


def test_books_back_off_each_for_itself() -> None:
    collector = Collector()
    collector.go_on(5, A)
    collector.go_on(0.05, A, B)
    assert collector.asked[-1] == (B, 5)


def test_backoff_goes_on_over_a_book_that_is_in_sync_for_a_moment_and_ends_over_one_that_stays_so() -> None:
    collector = Collector()
    collector.go_on(2, A)
    collector.go_on(0.5)
    collector.go_on(1, A)
    assert len(collector.asked) == 3
    collector.go_on(20)
    collector.go_on(0.6, A)
    assert [time for _, time in collector.asked[3:]] == [23.5, 24]


def test_request_from_outside_counts_like_one_of_the_update() -> None:
    collector = Collector()
    collector.requests.request(A)
    collector.go_on(0.5, A)
    assert len(collector.asked) == 1


def test_requests_that_bring_no_snapshot_are_reported_as_that(caplog: pytest.LogCaptureFixture) -> None:
    collector = Collector()
    with caplog.at_level(logging.WARNING):
        collector.go_on(10, A)
    assert len(collector.asked) == 5
    (record,) = caplog.records
    assert "no snapshot after 5 requests" in record.getMessage()


def test_book_that_has_gaps_after_its_snapshots_is_reported_as_that_and_no_setting_is_advised(
    caplog: pytest.LogCaptureFixture,
) -> None:
    collector = Collector()
    with caplog.at_level(logging.WARNING):
        for gaps in range(200):
            collector.gaps[A] = gaps
            collector.go_on(0.05, A)
    (record,) = caplog.records
    assert "lost updates again" in record.getMessage()
    assert "CONSECUTIVE_UPDATES" not in record.getMessage()
