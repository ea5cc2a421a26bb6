from __future__ import annotations

from decimal import Decimal

import pytest

from blackbird.monitor.text import clock, duration, figure, milliseconds, places_of, size

D = Decimal


@pytest.mark.parametrize(
    ("value", "places", "shown"),
    [
        ("-983645.1", 2, "−983,645.10"),
        ("0.125", 2, "0.13"),
        ("-0.125", 2, "−0.13"),  # away from zero, as SQL rounds
        ("-0.001", 2, "0.00"),
        ("15.9460", None, "15.946"),
        ("1E+3", None, "1,000"),
        ("0.00000001", None, "0.00000001"),
        ("-0", None, "0"),
        ("100", None, "100"),
    ],
)
def test_a_figure_is_exact_or_rounded_half_away_from_zero(value: str, places: int | None, shown: str) -> None:
    assert figure(D(value), places) == shown


def test_a_signed_figure_has_a_plus_only_above_zero() -> None:
    assert [figure(D(each), 1, signed=True) for each in ("2", "0", "-2", "0.01")] == [
        "+2.0",
        "0.0",
        "−2.0",
        "0.0",
    ]


def test_no_figure_is_a_dash() -> None:
    assert figure(None) == size(None) == milliseconds(None) == "–"


def test_figures_below_each_other_have_the_places_of_the_longest() -> None:
    prices = [D("61686.10"), D("61686"), D("6E+4")]
    assert places_of(*prices, None) == 1
    assert [figure(each, 1) for each in prices] == ["61,686.1", "61,686.0", "60,000.0"]
    assert places_of() == 0


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.42, "0.4 s"), (-1, "0.0 s"), (122, "2 m 02 s"), (3700, "1 h 01 m"), (200_000, "2 d 07 h")],
)
def test_durations_have_the_two_units_that_matter(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_times_are_utc_to_the_millisecond() -> None:
    assert clock(1_723_161_600_007) == "00:00:00.007"
