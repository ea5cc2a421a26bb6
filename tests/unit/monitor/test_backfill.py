from __future__ import annotations

from decimal import Decimal

import msgspec

from blackbird.monitor.backfill import SLICE_ROWS, Backfill, StoredQuote
from blackbird.monitor.board import Board
from blackbird.monitor.history import SECONDS, History
from tests.support import statuses

D = Decimal
SPOT, PERP = statuses.legs(0)
T = 1_723_161_600


def board(groups: int = 1) -> Board:
    made = Board()
    made.receive(msgspec.json.encode(statuses.all_statuses(groups)["signal"]))
    return made


def spans(backfill: Backfill) -> list[tuple[int, int]]:
    found = []
    while (span := backfill.next_span(T)) is not None:
        found.append(span)
    return found


def test_the_whole_time_of_the_chart_is_read_the_newest_first_and_its_end_again() -> None:
    found = spans(Backfill(board(), History()))
    *slices, again = found
    seconds = [second for begin, end in slices for second in range(begin, end)]
    assert sorted(seconds) == list(range(T + 1 - SECONDS, T + 1))
    assert slices == sorted(slices, reverse=True)
    assert again[1] == T + 1


def test_a_slice_has_few_rows_however_many_instruments_there_are() -> None:
    many = board(200)
    instruments = {leg for legs in many.directions for leg in legs}
    found = spans(Backfill(many, History()))
    assert max(end - begin for begin, end in found) * len(instruments) <= SLICE_ROWS


def test_nothing_is_read_before_a_pair_is_known() -> None:
    empty = Board()
    backfill = Backfill(empty, History())
    assert backfill.next_span(T) is None
    empty.receive(msgspec.json.encode(statuses.all_statuses()["signal"]))
    assert backfill.next_span(T) is not None


def test_both_directions_are_filled_and_what_was_seen_stays() -> None:
    history = History()
    history.add_spread(T, PERP, SPOT, 7.0)
    backfill = Backfill(board(), history)
    backfill.take(
        [
            StoredQuote(T - 2, SPOT, D("126.2"), D("126.3")),
            StoredQuote(T - 2, PERP, D("100.1"), D("100.2")),
            StoredQuote(T - 1, SPOT, None, D("126.3")),
            StoredQuote(T - 1, PERP, D("100.1"), D("100.2")),
            StoredQuote(T, SPOT, D("1"), D("2")),
            StoredQuote(T, PERP, D("3"), D("4")),
        ]
    )
    assert history.spread(PERP, SPOT) == ([T - 2, T - 1, T], [26.2, 26.2, -1.0], [26.0, None, 7.0])
