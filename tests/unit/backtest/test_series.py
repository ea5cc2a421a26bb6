"""Thinned curves keep the extremes of each stretch, in order, and stay small."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from blackbird.backtest.series import Point, ThinnedSeries

STEPS = st.lists(st.tuples(st.integers(0, 50), st.integers(-9, 9)), min_size=1, max_size=200)


@given(STEPS)
def test_a_thinned_curve_has_the_extremes_of_each_stretch_and_only_points_of_the_curve(
    steps: list[tuple[int, int]],
) -> None:
    series, whole, now = ThinnedSeries(columns=8), [], 5
    for step, value in steps:
        now += step
        whole.append(Point(now, value))
        series.add(now, value)
    points = series.points()
    assert len(points) <= 4 * 8
    assert set(points) <= set(whole)
    assert [point.ms for point in points] == sorted(point.ms for point in points)
    for extreme in (min, max):
        best = extreme(whole, key=lambda point: point.value)
        assert extreme(points, key=lambda point: point.value).value == best.value
    assert points[0].ms == whole[0].ms
    assert points[-1].ms == whole[-1].ms


def test_a_short_curve_is_kept_whole() -> None:
    series = ThinnedSeries(columns=8)
    for ms in range(8):
        series.add(ms, -ms)
    assert series.points() == [Point(ms, -ms) for ms in range(8)]


def test_the_extremes_of_a_stretch_survive_that_it_is_joined_with_the_next() -> None:
    series = ThinnedSeries(columns=2)
    for ms, value in enumerate([0, 5, -5, 0, 1, 1, 1, 1]):
        series.add(ms, value)
    assert series.points()[:4] == [Point(0, 0), Point(1, 5), Point(2, -5), Point(3, 0)]
