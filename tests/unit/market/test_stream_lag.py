"""How far a stream is behind its own quickest message."""

from __future__ import annotations

import pytest

from blackbird.market.stream_lag import WINDOW_MS, StreamLag

NOW = 1_723_161_255_608


def noted(lag: StreamLag, lag_ms: int, received_ms: int) -> int:
    """Note a message where it has to be; return its excess."""
    if lag_ms < lag.smallest_in_window or received_ms >= lag.window_ends:
        lag.note(lag_ms, received_ms)
    return lag.excess(lag_ms)


@pytest.mark.parametrize("offset", [0, 5, -3_600_000, 86_400_000])
def test_excess_is_free_of_the_offset_of_the_clocks(offset: int) -> None:
    lag = StreamLag()
    excesses = [noted(lag, offset + taken, NOW + taken) for taken in (40, 55, 35, 40, 15_035)]
    assert excesses == [0, 15, 0, 5, 15_000]


def test_without_a_message_noted_there_is_no_excess() -> None:
    assert StreamLag().excess(180_000) == 0


def test_smallest_lag_is_remembered_for_one_to_two_windows() -> None:
    lag = StreamLag()
    noted(lag, 10, NOW)
    assert noted(lag, 50, NOW + WINDOW_MS - 1) == 40
    assert noted(lag, 50, NOW + WINDOW_MS) == 40, "of the window before"
    assert noted(lag, 60, NOW + 2 * WINDOW_MS) == 10, "a clock that was set anew is forgiven"


def test_silence_longer_than_a_window_begins_anew() -> None:
    lag = StreamLag()
    noted(lag, 10, NOW)
    assert noted(lag, 5000, NOW + 2 * WINDOW_MS) == 0
