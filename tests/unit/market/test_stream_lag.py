"""How far a stream is behind its own quickest message."""

from __future__ import annotations

import pytest

from blackbird.market.stream_lag import WINDOW_MS, StreamLag

NOW = 1_723_161_255_608


@pytest.mark.parametrize("offset", [0, 5, -3_600_000, 86_400_000])
def test_excess_is_free_of_the_offset_of_the_clocks(offset: int) -> None:
    lag = StreamLag()
    excesses = [lag.excess(offset + taken, NOW + taken) for taken in (40, 55, 35, 40, 15_035)]
    assert excesses == [0, 15, 0, 5, 15_000]


def test_first_message_and_one_that_does_not_count_have_no_excess() -> None:
    lag = StreamLag()
    assert lag.excess(-180_000, NOW, counts=False) == 0
    assert lag.excess(40, NOW) == 0
    assert lag.excess(-180_000, NOW, counts=False) == -180_040
    assert lag.excess(60, NOW) == 20, "what does not count is not the smallest"


def test_smallest_lag_is_remembered_for_one_to_two_windows() -> None:
    lag = StreamLag()
    lag.excess(10, NOW)
    assert lag.excess(50, NOW + WINDOW_MS - 1) == 40
    assert lag.excess(50, NOW + WINDOW_MS) == 40, "of the window before"
    assert lag.excess(60, NOW + 2 * WINDOW_MS) == 10, "a clock that was set anew is forgiven"


def test_silence_longer_than_a_window_begins_anew() -> None:
    lag = StreamLag()
    lag.excess(10, NOW)
    assert lag.excess(5000, NOW + 2 * WINDOW_MS) == 0
