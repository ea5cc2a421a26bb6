"""Latencies in buckets."""

from __future__ import annotations

import pytest

from blackbird.status.histogram import BUCKETS, Counts, Histogram, MillisecondHistogram


def test_a_duration_is_counted_in_the_first_bucket_that_it_does_not_exceed() -> None:
    histogram = Histogram()
    for seconds in (0.0, 0.00025, 0.00026, 0.001, 0.0011, 10.0, 10.1):
        histogram.observe(seconds)
    counts = histogram.counts()
    assert dict(enumerate(counts.counts)) | {0: 2, 1: 1, 2: 1, 3: 1, 16: 1, 17: 1} == dict(
        enumerate(counts.counts)
    )
    assert counts.total == 7
    assert counts.sum == pytest.approx(20.10261)


def test_bounds_rise_and_there_is_one_more_bucket_than_bounds() -> None:
    assert list(BUCKETS) == sorted(set(BUCKETS))
    assert len(Counts().counts) == len(BUCKETS) + 1


def test_counts_given_out_do_not_change_any_more() -> None:
    histogram = Histogram()
    before = histogram.counts()
    histogram.observe(0.01)
    assert (before.total, histogram.counts().total) == (0, 1)
    assert histogram.counts().since(before) == histogram.counts()


@pytest.mark.parametrize(
    ("seconds", "share", "expected"),
    [
        ([0.0015] * 4, 0.5, 0.0015),
        ([0.0015] * 99 + [0.3], 0.5, 0.001 + 0.001 * 50 / 99),
        ([0.0015] * 99 + [0.3], 0.995, 0.25 + 0.25 * 0.5),
        ([99.0], 0.5, 10.0),
    ],
)
def test_a_quantile_is_estimated_within_its_bucket(
    seconds: list[float], share: float, expected: float
) -> None:
    histogram = Histogram()
    for each in seconds:
        histogram.observe(each)
    assert histogram.counts().quantile(share) == pytest.approx(expected)


def test_nothing_observed_has_no_quantile() -> None:
    assert Counts().quantile(0.5) is None


def test_milliseconds_are_counted_like_seconds_and_once() -> None:
    tallied, observed = MillisecondHistogram(), Histogram()
    for milliseconds in (0, 3, 3, 250, 251, 20_000):
        tallied.tally[milliseconds] += 1
        observed.observe(milliseconds / 1000)
    for _ in range(2):
        assert tallied.counts().counts == observed.counts().counts
        assert tallied.counts().sum == pytest.approx(observed.counts().sum)
    assert not tallied.tally, "it would grow for ever"


def test_a_clock_that_is_behind_or_a_time_that_is_none_counts_as_the_nearest_possible() -> None:
    tallied = MillisecondHistogram()
    tallied.tally[-5] += 1
    tallied.tally[1 << 60] += 1
    counts = tallied.counts()
    assert (counts.counts[0], counts.counts[-1], counts.sum) == (1, 1, 60.0)
