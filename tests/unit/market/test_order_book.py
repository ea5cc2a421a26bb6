"""One book: Bybit's protocol, and the size that was consumed from its levels."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from blackbird.market.fields import InvalidMessage
from blackbird.market.order_book import Level, OrderBook, Outcome
from tests.support.market import book_message, decimals

pytestmark = pytest.mark.usefixtures("lazy_and_eager_sides")

BIDS = [("100", "1"), ("99", "2"), ("98", "3")]
ASKS = [("101", "1.5"), ("102", "2.5")]


def full_book(u: int = 10) -> OrderBook:
    book = OrderBook()
    assert book.apply(book_message("snapshot", u, BIDS, ASKS), u) is Outcome.APPLIED
    return book


def apply(book: OrderBook, kind: str, u: int, bids: Any = (), asks: Any = (), **rest: Any) -> Outcome:
    return book.apply(book_message(kind, u, bids, asks, **rest), rest.get("time") or u)


def best_bid(book: OrderBook) -> Level:
    return book.bids.best()


def best_ask(book: OrderBook) -> Level:
    return book.asks.best()


def prices(book: OrderBook) -> tuple[Any, Any]:
    return best_bid(book).price, best_ask(book).price


def left_of(level: Level) -> tuple[Any, Any]:
    return level.price, level.remaining


# --- snapshots and deltas ------------------------------------------------------------------------


def test_new_book_is_empty_and_out_of_sync() -> None:
    book = OrderBook()
    assert not book.in_sync
    assert book.bids.best_price() is None
    assert book.asks.best_price() is None


def test_snapshot_fills_the_book_and_brings_it_in_sync() -> None:
    book = full_book()
    assert book.in_sync
    assert book.bids.reported() == decimals({"100": "1", "99": "2", "98": "3"})
    assert prices(book) == (100, 101)


def test_snapshot_replaces_the_book_whatever_is_in_it() -> None:
    book = full_book()
    assert apply(book, "snapshot", 11, [("90", "1")], [("91", "1")]) is Outcome.APPLIED
    assert book.bids.reported() == decimals({"90": "1"})
    assert book.asks.reported() == decimals({"91": "1"})


@pytest.mark.parametrize("u", [1, 2, 9, 11, 500])
def test_later_snapshot_replaces_the_book_whatever_its_u(u: int) -> None:
    book = full_book(10)
    assert apply(book, "snapshot", u, [("90", "1")], [("91", "1")], time=1000) is Outcome.APPLIED
    assert book.bids.reported() == decimals({"90": "1"})
    assert apply(book, "delta", u + 1, [("89", "1")], time=1001) is Outcome.APPLIED


def test_snapshot_of_the_same_u_changes_nothing() -> None:
    book = full_book(10)
    version = book.version
    assert apply(book, "snapshot", 10, [("90", "7")], time=50) is Outcome.DUPLICATE
    assert book.bids.reported() == decimals({"100": "1", "99": "2", "98": "3"})
    assert book.version == version
    assert book.cts == 10


def test_snapshot_of_the_u_of_the_last_delta_changes_nothing() -> None:
    book = full_book(10)
    apply(book, "delta", 11, [("97", "1")])
    assert apply(book, "snapshot", 11, [("90", "7")]) is Outcome.DUPLICATE
    assert Decimal(97) in book.bids.reported()


def test_repeated_snapshot_shows_that_the_book_is_still_alive() -> None:
    book = full_book(10)
    message = book_message("snapshot", 10, BIDS, ASKS)
    book.apply(message, 3010)
    assert book.received_ms == 3010
    book.apply(message, 2000)
    assert book.received_ms == 3010


def test_empty_snapshot_empties_a_book_in_sync() -> None:
    book = full_book(10)
    assert apply(book, "snapshot", 11) is Outcome.APPLIED
    assert book.in_sync
    assert book.bids.best_price() is None


def test_delta_changes_adds_and_removes_levels() -> None:
    book = full_book()
    outcome = apply(book, "delta", 11, [("100", "0"), ("99", "5"), ("97", "1")], [("101.5", "0.1")])
    assert outcome is Outcome.APPLIED
    assert book.bids.reported() == decimals({"99": "5", "98": "3", "97": "1"})
    assert book.asks.reported() == decimals({"101": "1.5", "101.5": "0.1", "102": "2.5"})
    assert best_bid(book).price == 99


def test_new_best_level_is_the_best_on_either_side() -> None:
    book = full_book()
    apply(book, "delta", 11, [("100.5", "1")], [("100.9", "1")])
    assert prices(book) == (Decimal("100.5"), Decimal("100.9"))


def test_best_falls_back_to_the_next_level_when_removed() -> None:
    book = full_book()
    apply(book, "delta", 11, [("100", "0")], [("101", "0")])
    assert prices(book) == (99, 102)


def test_side_without_levels_has_no_best() -> None:
    book = full_book()
    apply(book, "delta", 11, [("100", "0"), ("99", "0"), ("98", "0")])
    assert book.bids.best_price() is None
    assert book.in_sync


def test_removal_of_a_level_that_is_not_there_is_no_error() -> None:
    book = full_book()
    assert apply(book, "delta", 11, [("50", "0")], [("150", "0")]) is Outcome.APPLIED
    assert book.bids.reported() == decimals({"100": "1", "99": "2", "98": "3"})


def test_zero_size_in_a_snapshot_is_no_level() -> None:
    book = OrderBook()
    apply(book, "snapshot", 10, [("100", "0"), ("99", "1")], [("101", "0.00")])
    assert book.bids.reported() == decimals({"99": "1"})
    assert book.asks.best_price() is None


@pytest.mark.parametrize(
    ("levels", "left"),
    [
        ([("100", "1"), ("99", "5"), ("98", "3")], {"100": "0.5", "99": "5", "98": "3"}),
        ([("100", "1"), ("99", "2")], {"100": "0.5", "99": "2"}),
        ([("101", "9"), ("100", "1"), ("99", "2")], {"101": "9", "100": "0.5", "99": "2"}),
        ([("100.0", "1"), ("99", "2"), ("98", "3.0")], {"100": "0.5", "99": "2", "98": "3"}),
        ([("100", "4"), ("100", "1"), ("99", "2"), ("98", "3")], {"100": "0.5", "99": "2", "98": "3"}),
        ([("100", "4"), ("100", "1")], {"100": "0.5"}),
        ([("100", "1"), ("100.0", "4")], {"100": "4"}),
        ([("99", "2"), ("100", "1"), ("98", "0")], {"100": "0.5", "99": "2"}),
        ([("100", "1"), ("99", "2"), ("98", "3")], {"100": "0.5", "99": "2", "98": "3"}),
        ([], {}),
    ],
)
def test_snapshot_after_snapshot_replaces_the_levels_however_they_are_written(
    levels: list[tuple[str, str]], left: dict[str, str]
) -> None:
    book = full_book()  # bids 100 x 1, 99 x 2, 98 x 3
    book.bids.consume(best_bid(book), Decimal("0.5"))
    apply(book, "snapshot", 11, levels, ASKS)
    assert book.bids.available() == decimals(left)
    apply(book, "snapshot", 12, [("97", "1"), ("99", "2")], ASKS)
    assert book.bids.available() == decimals({"97": "1", "99": "2"})


def test_snapshot_after_a_delta_replaces_what_the_delta_has_changed() -> None:
    book = full_book()
    apply(book, "delta", 11, [("100", "0"), ("97", "4")])
    apply(book, "snapshot", 12, BIDS, ASKS)
    assert book.bids.reported() == decimals(dict(BIDS))


def test_the_last_of_two_sizes_for_one_price_counts() -> None:
    book = full_book()
    levels = [("100", "0"), ("100", "4"), ("99", "7"), ("99", "0"), ("98", "3")]
    apply(book, "delta", 11, levels)
    assert book.bids.reported() == decimals({"100": "4", "98": "3"})
    apply(book, "snapshot", 12, levels)
    assert book.bids.reported() == decimals({"100": "4", "98": "3"})


def test_price_written_with_other_zeros_is_the_same_level() -> None:
    book = full_book()
    apply(book, "delta", 11, [("100.00", "0"), ("99.0", "2.00")])
    assert book.bids.reported() == decimals({"99": "2", "98": "3"})


def test_prices_are_ordered_as_numbers_not_as_texts() -> None:
    book = OrderBook()
    apply(book, "snapshot", 10, [("99", "1"), ("100", "1"), ("9", "1")], [("1000", "1"), ("101", "1")])
    assert prices(book) == (100, 101)


def test_times_of_the_last_message_applied_are_kept() -> None:
    book = full_book(10)
    apply(book, "delta", 11, time=77)
    assert (book.cts, book.received_ms, book.update_id) == (77, 77, 11)


# --- what comes in the wrong order ---------------------------------------------------------------


def test_delta_before_any_snapshot_waits() -> None:
    book = OrderBook()
    assert apply(book, "delta", 5, BIDS, ASKS) is Outcome.AWAITING_SNAPSHOT
    assert not book.in_sync
    assert book.bids.best_price() is None


@pytest.mark.parametrize("u", [10, 9, 2])
def test_delta_with_a_u_not_above_the_last_is_ignored_and_counted(u: int) -> None:
    book = full_book(10)
    version = book.version
    assert apply(book, "delta", u, [("100", "0")], time=500) is Outcome.STALE
    assert book.bids.reported() == decimals({"100": "1", "99": "2", "98": "3"})
    assert (book.stale, book.version, book.cts, book.received_ms) == (1, version, 10, 10)
    assert book.in_sync
    apply(book, "delta", u, time=501)
    assert book.stale == 2


def test_delta_applied_twice_is_stale_the_second_time() -> None:
    book = full_book(10)
    message = book_message("delta", 11, [("100", "0.5")])
    assert [book.apply(message, 11), book.apply(message, 11)] == [Outcome.APPLIED, Outcome.STALE]


def test_gap_puts_the_book_out_of_sync_and_is_counted() -> None:
    book = full_book(10)
    assert apply(book, "delta", 12, [("100", "0")]) is Outcome.GAP
    assert not book.in_sync
    assert book.gaps == 1
    assert Decimal(100) in book.bids.reported()


def test_deltas_after_a_gap_wait_for_the_snapshot() -> None:
    book = full_book(10)
    apply(book, "delta", 12)
    assert apply(book, "delta", 11, [("100", "0")], time=13) is Outcome.AWAITING_SNAPSHOT
    assert apply(book, "delta", 13, [("100", "0")]) is Outcome.AWAITING_SNAPSHOT
    assert not book.in_sync
    assert book.gaps == 1


def test_snapshot_after_a_gap_brings_the_book_in_sync() -> None:
    book = full_book(10)
    apply(book, "delta", 12)
    assert apply(book, "snapshot", 13, [("90", "1")], [("91", "1")]) is Outcome.APPLIED
    assert book.in_sync
    assert apply(book, "delta", 14, [("90", "2")]) is Outcome.APPLIED
    assert book.bids.reported() == decimals({"90": "2"})


def test_snapshot_of_the_last_u_after_a_gap_is_accepted() -> None:
    book = full_book(10)
    apply(book, "delta", 12)
    assert apply(book, "snapshot", 10, BIDS, ASKS, time=20) is Outcome.APPLIED
    assert book.in_sync


def test_delta_that_skips_is_applied_where_update_ids_may_skip() -> None:
    book = OrderBook(consecutive=False)
    apply(book, "snapshot", 10, BIDS, ASKS)
    assert apply(book, "delta", 15, [("100", "0")]) is Outcome.APPLIED
    assert apply(book, "delta", 15) is Outcome.STALE
    assert apply(book, "delta", 12) is Outcome.STALE
    assert best_bid(book).price == 99


def test_old_copy_of_a_snapshot_is_ignored_and_counted() -> None:
    book = full_book(10)
    old = book_message("snapshot", 10, BIDS, ASKS)
    apply(book, "delta", 11, [("100", "0")])
    assert book.apply(old, 10) is Outcome.STALE
    assert book.stale == 1
    assert best_bid(book).price == 99


def test_old_copy_of_a_snapshot_is_ignored_while_the_book_waits() -> None:
    book = full_book(10)
    old = book_message("snapshot", 10, BIDS, ASKS)
    apply(book, "delta", 11)
    apply(book, "delta", 13)
    assert book.apply(old, 10) is Outcome.STALE
    assert not book.in_sync


def test_copy_of_the_snapshot_that_the_gap_followed_does_not_mend_it() -> None:
    book = full_book(10)
    old = book_message("snapshot", 10, BIDS, ASKS)
    apply(book, "delta", 12)
    assert book.apply(old, 10) is Outcome.STALE
    assert not book.in_sync


def test_snapshot_published_later_replaces_a_book_whose_ids_are_all_higher() -> None:
    book = full_book(10)
    assert book.apply(book_message("snapshot", 5, [("90", "1")], cts=5, seq=5), 11) is Outcome.APPLIED
    assert best_bid(book).price == 90


def test_stream_that_goes_on_below_the_book_s_id_makes_it_wait_for_a_snapshot() -> None:
    book = full_book(1_000_000)  # from nobody knows where
    began = book.received_ms
    outcomes = [book.apply(book_message("delta", 10 + n), began + 300 * n) for n in range(1, 11)]
    assert outcomes == [Outcome.STALE] * 9 + [Outcome.GAP]
    assert (book.stale, book.gaps) == (9, 1)
    assert book.apply(book_message("snapshot", 20, BIDS, ASKS), began + 3001) is Outcome.APPLIED


def test_stale_messages_before_one_that_is_applied_do_not_count_against_the_book() -> None:
    book = full_book(1000)
    for n in range(1, 40):
        u = 1000 + n // 9 if n % 9 == 0 else 10
        assert book.apply(book_message("delta", u), book.received_ms + 2001) is not Outcome.GAP


def test_stream_below_the_book_s_id_is_given_two_seconds() -> None:
    book = full_book(1000)
    for n in range(1, 30):
        assert book.apply(book_message("delta", 10 + n), book.received_ms + 2000) is Outcome.STALE
    assert book.apply(book_message("delta", 50), book.received_ms + 2001) is Outcome.GAP


def test_many_old_copies_do_not_spoil_the_book() -> None:
    book = full_book(1000)
    outcomes = [book.apply(book_message("delta", 10 + n), book.received_ms) for n in range(1, 40)]
    assert outcomes == [Outcome.STALE] * 39
    assert book.in_sync


@pytest.mark.parametrize("clock", ["cts", "seq", "u"])
def test_snapshot_that_is_newer_by_one_clock_is_no_old_copy(clock: str) -> None:
    book = full_book(10)
    apply(book, "delta", 11)
    numbers = {"cts": 5, "seq": 5, "u": 5, clock: 11 if clock != "u" else 12}
    u = numbers.pop("u")
    published = book.received_ms
    assert book.apply(book_message("snapshot", u, [("90", "1")], **numbers), published) is Outcome.APPLIED  # type: ignore[arg-type]


# --- restart of the exchange's service (u = 1) ---------------------------------------------------


def test_snapshot_with_u_1_is_a_restart_and_deltas_go_on_from_it() -> None:
    book = full_book(5000)
    restart = book_message("snapshot", 1, [("90", "1")], [("91", "1")], time=5001)
    assert book.apply(restart, 5001) is Outcome.APPLIED
    assert apply(book, "delta", 2, [("90", "2")], time=5002) is Outcome.APPLIED
    assert book.bids.reported() == decimals({"90": "2"})


def test_second_restart_with_u_1_replaces_the_book() -> None:
    book = OrderBook()
    apply(book, "snapshot", 1, [("90", "1")], [("91", "1")], time=10)
    assert apply(book, "snapshot", 1, [("80", "1")], [("81", "1")], time=20) is Outcome.APPLIED
    assert book.bids.reported() == decimals({"80": "1"})


@pytest.mark.parametrize("bids", [[("90", "1")], [("90", "1"), ("89", "0")]])
def test_snapshot_with_u_1_that_holds_what_the_book_holds_changes_nothing(bids: Any) -> None:
    book = OrderBook()
    apply(book, "snapshot", 1, [("90", "1")], [("91", "1")], time=10)
    version = book.version
    assert apply(book, "snapshot", 1, bids, [("91", "1.0")], time=20) is Outcome.DUPLICATE
    assert book.version == version


@pytest.mark.parametrize(("bid", "ask"), [("90", "92"), ("89", "91")])
def test_snapshot_with_u_1_that_differs_on_one_side_replaces_the_book(bid: str, ask: str) -> None:
    book = OrderBook()
    apply(book, "snapshot", 1, [("90", "1")], [("91", "1")], time=10)
    assert apply(book, "snapshot", 1, [(bid, "1")], [(ask, "1")], time=20) is Outcome.APPLIED
    assert prices(book) == (Decimal(bid), Decimal(ask))


def test_snapshot_with_u_1_that_takes_a_level_back_replaces_the_book() -> None:
    book = OrderBook()
    apply(book, "snapshot", 1, [("90", "1")], [("91", "1")], time=10)
    assert apply(book, "snapshot", 1, [("90", "1"), ("90", "0")], [("91", "1")], time=20) is Outcome.APPLIED
    assert book.bids.best_price() is None


@pytest.mark.parametrize("last", [1, 2, 5000])
def test_delta_with_u_1_means_a_restart_whose_snapshot_was_missed(last: int) -> None:
    book = full_book(last)
    assert apply(book, "delta", 1, [("90", "1")], time=5001) is Outcome.GAP
    assert not book.in_sync
    assert Decimal(90) not in book.bids.reported()


def test_delta_with_u_1_is_a_missed_restart_where_update_ids_may_skip_too() -> None:
    book = OrderBook(consecutive=False)
    apply(book, "snapshot", 10, BIDS, ASKS)
    assert apply(book, "delta", 1, time=20) is Outcome.GAP


def test_delta_with_u_1_follows_a_snapshot_with_u_0() -> None:
    book = full_book(0)
    assert apply(book, "delta", 1, [("100", "0")]) is Outcome.APPLIED


# --- crossed books -------------------------------------------------------------------------------


@pytest.mark.parametrize("bid", ["101", "101.0", "101.5", "103"])
def test_book_that_crosses_itself_is_not_trusted(bid: str) -> None:
    book = full_book(10)
    assert apply(book, "delta", 11, [(bid, "1")]) is Outcome.GAP
    assert not book.in_sync
    assert book.gaps == 1
    assert apply(book, "delta", 12, [(bid, "0")]) is Outcome.AWAITING_SNAPSHOT
    assert apply(book, "snapshot", 13, BIDS, ASKS) is Outcome.APPLIED
    assert book.in_sync


def test_crossed_snapshot_is_not_trusted() -> None:
    book = OrderBook()
    assert apply(book, "snapshot", 10, [("101", "1")], [("100", "1")]) is Outcome.GAP
    assert not book.in_sync


def test_level_that_we_took_and_that_is_removed_crosses_nothing() -> None:
    book = full_book(10)
    book.asks.consume(best_ask(book), Decimal("1.5"))
    assert apply(book, "delta", 11, [("101", "1")], [("101", "0")]) is Outcome.APPLIED
    assert book.in_sync


def test_book_that_is_invalidated_waits_for_a_snapshot() -> None:
    book = full_book(10)
    book.invalidate()
    assert apply(book, "delta", 11) is Outcome.AWAITING_SNAPSHOT
    assert apply(book, "snapshot", 10, BIDS, ASKS, time=12) is Outcome.APPLIED
    assert book.in_sync


# --- consumed sizes -----------------------------------------------------------------------------


def consumed_book() -> OrderBook:
    """Return a book whose best bid (100, size 1) is consumed whole and whose best ask (101, 1.5) by 0.5."""
    book = full_book(10)
    book.bids.consume(best_bid(book), Decimal(1))
    book.asks.consume(best_ask(book), Decimal("0.5"))
    return book


def test_level_consumed_whole_is_not_there_and_the_next_is_the_best() -> None:
    book = consumed_book()
    assert best_bid(book).price == 99
    assert book.bids.available() == decimals({"99": "2", "98": "3"})
    assert book.bids.reported() == decimals({"100": "1", "99": "2", "98": "3"})


def test_level_consumed_in_part_has_the_rest_left() -> None:
    book = consumed_book()
    assert best_ask(book).remaining == 1
    book.asks.consume(best_ask(book), Decimal("0.25"))
    assert best_ask(book).remaining == Decimal("0.75")
    book.asks.consume(best_ask(book), Decimal("0.75"))
    assert best_ask(book).price == 102


def test_level_consumed_in_tenths_is_gone_without_crumbs() -> None:
    book = OrderBook()
    apply(book, "snapshot", 10, [("100", "0.3")])
    for _ in range(3):
        book.bids.consume(best_bid(book), Decimal("0.1"))
    assert book.bids.best_price() is None


def test_consumed_size_stays_consumed_while_other_levels_change() -> None:
    book = consumed_book()
    apply(book, "delta", 11, [("99", "7")], [("102", "7")])
    assert book.bids.available() == decimals({"99": "7", "98": "3"})
    assert book.asks.available() == decimals({"101": "1", "102": "7"})


def test_delta_with_the_same_size_does_not_bring_it_back() -> None:
    book = consumed_book()
    apply(book, "delta", 11, [("100", "1.00")], [("101", "1.5")])
    assert Decimal(100) not in book.bids.available()
    assert best_ask(book).remaining == 1


@pytest.mark.parametrize("size", ["0.5", "2"])
def test_delta_with_another_size_brings_it_back_whole(size: str) -> None:
    book = consumed_book()
    apply(book, "delta", 11, [("100", size)], [("101", size)])
    assert left_of(best_bid(book)) == (100, Decimal(size))
    assert left_of(best_ask(book)) == (101, Decimal(size))


def test_removal_and_return_of_the_same_size_bring_it_back() -> None:
    book = consumed_book()
    apply(book, "delta", 11, [("100", "0")], [("101", "0")])
    apply(book, "delta", 12, [("100", "1")], [("101", "1.5")])
    assert left_of(best_bid(book)) == (100, 1)
    assert left_of(best_ask(book)) == (101, Decimal("1.5"))


def test_removal_and_return_in_one_delta_bring_it_back() -> None:
    book = consumed_book()
    apply(book, "delta", 11, [("100", "0"), ("100", "1")])
    assert best_bid(book).remaining == 1


def test_snapshot_with_the_same_size_does_not_bring_it_back() -> None:
    book = consumed_book()
    apply(book, "snapshot", 11, BIDS, ASKS)
    assert book.bids.available() == decimals({"99": "2", "98": "3"})
    assert best_ask(book).remaining == 1


def test_snapshot_with_another_size_brings_it_back_whole() -> None:
    book = consumed_book()
    apply(book, "snapshot", 11, [("100", "1.1")], [("101", "1.4")])
    assert book.bids.available() == decimals({"100": "1.1"})
    assert book.asks.available() == decimals({"101": "1.4"})


def test_snapshot_without_the_level_brings_it_back_when_it_returns() -> None:
    book = consumed_book()
    apply(book, "snapshot", 11, [("99", "2")], [("102", "1")])
    apply(book, "snapshot", 12, BIDS, ASKS)
    assert book.bids.available() == decimals({"100": "1", "99": "2", "98": "3"})
    assert best_ask(book).remaining == Decimal("1.5")


def test_snapshot_with_the_same_size_does_not_bring_it_back_after_a_gap() -> None:
    book = consumed_book()
    apply(book, "delta", 12, [("100", "5")])
    apply(book, "snapshot", 13, BIDS, ASKS)
    assert book.in_sync
    assert Decimal(100) not in book.bids.available()
    assert best_ask(book).remaining == 1


def test_snapshot_of_a_restart_with_the_same_size_does_not_bring_it_back() -> None:
    book = consumed_book()
    apply(book, "snapshot", 1, BIDS, ASKS, time=20)
    assert Decimal(100) not in book.bids.available()


def test_consumed_level_is_one_level_after_snapshots_and_changes() -> None:
    """The order of prices must survive every way in which a consumed level comes and goes."""
    book = consumed_book()
    apply(book, "snapshot", 11, BIDS, ASKS)
    apply(book, "delta", 12, [("100", "0")])
    apply(book, "delta", 13, [("100", "3")])
    book.bids.consume(best_bid(book), Decimal(3))
    apply(book, "delta", 14, [("100", "4")])
    assert best_bid(book).price == 100
    apply(book, "delta", 15, [("100", "0")])
    assert best_bid(book).price == 99


def test_take_after_the_exchange_reported_another_size_changes_nothing() -> None:
    book = full_book(10)
    ordered = best_bid(book)
    apply(book, "delta", 11, [("100", "4")])
    book.bids.consume(ordered, Decimal(1))
    assert book.bids.available()[Decimal(100)] == 4
    assert best_bid(book).price == 100


def test_take_after_the_level_was_given_anew_with_another_size_changes_nothing() -> None:
    book = full_book(10)
    ordered = best_bid(book)
    apply(book, "delta", 11, [("100", "4")])
    assert left_of(best_bid(book)) == (100, 4)
    book.bids.consume(ordered, Decimal(1))
    assert left_of(best_bid(book)) == (100, 4)


def test_level_that_was_given_and_changed_is_gone_when_it_is_removed() -> None:
    book = full_book(10)
    book.bids.consume(best_bid(book), Decimal("0.5"))
    apply(book, "delta", 11, [("100", "4")])
    apply(book, "delta", 12, [("100", "0")])
    assert best_bid(book).price == 99


def test_take_after_the_level_was_removed_changes_nothing() -> None:
    book = full_book(10)
    ordered = best_bid(book)
    apply(book, "delta", 11, [("100", "0")])
    book.bids.consume(ordered, Decimal(1))
    assert book.bids.available() == decimals({"99": "2", "98": "3"})


# --- snapshots of many levels, one after the other -----------------------------------------------

MANY = [(str(price), "1") for price in range(100, 90, -1)]


def follow(*changes: Any) -> OrderBook:
    """Return a book after a snapshot of MANY bids, a take of the best, and the same with `changes`."""
    book = OrderBook()
    apply(book, "snapshot", 10, MANY)
    book.bids.consume(best_bid(book), Decimal(1))
    after = [(price, size) for price, size in {**dict(MANY), **dict(changes)}.items() if size != "gone"]
    assert apply(book, "snapshot", 11, after) is Outcome.APPLIED
    return book


def test_snapshot_like_the_last_one_changes_nothing() -> None:
    book = follow()
    assert book.bids.reported() == decimals(dict(MANY))
    assert best_bid(book).price == 99


def test_snapshot_with_one_other_size_changes_that_level() -> None:
    book = follow(("95", "7"), ("100", "2"))
    assert book.bids.reported() == decimals({**dict(MANY), "95": "7", "100": "2"})
    assert left_of(best_bid(book)) == (100, 2)


def test_snapshot_with_levels_more_and_less_has_those_levels() -> None:
    book = follow(("95", "gone"), ("101", "3"), ("90", "1"))
    expected = {**dict(MANY), "101": "3", "90": "1"}
    del expected["95"]
    assert book.bids.reported() == decimals(expected)
    assert best_bid(book).price == 101


def test_snapshot_with_one_level_less_lets_it_come_back_whole() -> None:
    book = follow(("100", "gone"))
    apply(book, "snapshot", 12, MANY)
    assert left_of(best_bid(book)) == (100, 1)


def test_snapshot_that_spells_a_price_differently_has_the_same_level() -> None:
    book = follow(("100", "gone"), ("100.0", "1.00"))
    assert book.bids.reported() == decimals(dict(MANY))
    assert best_bid(book).price == 99
    apply(book, "snapshot", 12, [*MANY[1:], ("100.00", "2")])
    assert left_of(best_bid(book)) == (100, 2)


def test_snapshot_with_a_price_twice_has_its_last_size() -> None:
    assert follow(("100.0", "3")).bids.reported()[Decimal(100)] == 3
    book = OrderBook()
    apply(book, "snapshot", 10, MANY)
    apply(book, "snapshot", 11, [*MANY, ("100", "4")])
    assert book.bids.reported() == decimals({**dict(MANY), "100": "4"})
    apply(book, "snapshot", 12, [*MANY, ("100", "0"), ("99.0", "0")])
    assert best_bid(book).price == 98
    apply(book, "snapshot", 13, MANY)
    assert book.bids.reported() == decimals(dict(MANY))


def test_snapshot_after_deltas_is_compared_with_what_they_made() -> None:
    book = OrderBook()
    apply(book, "snapshot", 10, MANY)
    apply(book, "delta", 11, [("100", "0"), ("99", "5"), ("101", "1")])
    apply(book, "snapshot", 12, MANY)
    assert book.bids.reported() == decimals(dict(MANY))


def test_snapshot_with_a_zero_among_many_has_no_such_level() -> None:
    book = follow(("95", "0"), ("200", "0"))
    assert Decimal(95) not in book.bids.reported()
    apply(book, "snapshot", 12, MANY)
    assert book.bids.reported() == decimals(dict(MANY))


def test_snapshot_follows_snapshot_unread_and_is_read_for_a_delta() -> None:
    book = OrderBook()
    for u, size in enumerate(("5", "6", "7"), 10):
        apply(book, "snapshot", u, [("101", size), *MANY], [("102", size), ("103", "1")])
        assert prices(book) == (101, 102)
    apply(book, "delta", 13, [("101", "0"), ("95", "4")], [("101", "2")])
    assert book.bids.reported() == decimals({**dict(MANY), "95": "4"})
    assert book.asks.available() == decimals({"101": "2", "102": "7", "103": "1"})


def test_level_given_before_the_next_snapshots_is_taken_while_its_size_stays() -> None:
    book = OrderBook()
    apply(book, "snapshot", 10, MANY)
    ordered = best_bid(book)
    apply(book, "snapshot", 11, [("101", "1"), *MANY])
    apply(book, "snapshot", 12, [("101", "2"), *MANY])
    book.bids.consume(ordered, Decimal(1))
    assert Decimal(100) not in book.bids.available()
    apply(book, "snapshot", 13, [("100", "5"), *MANY[1:]])
    book.bids.consume(ordered, Decimal(0))
    assert left_of(best_bid(book)) == (100, 5)


@pytest.mark.parametrize(
    "bids",
    [
        [*MANY[::-1]],
        [*MANY, ("100.5", "1")],
        [("100.00000000000000000001", "1"), ("100.00000000000000000002", "1"), *MANY],
        [("100", "2"), *MANY],
        [("100", "0"), *MANY],
        [("101", "0"), *MANY],
    ],
)
def test_snapshot_whose_first_level_is_not_plainly_the_best_has_its_best(bids: Any) -> None:
    book = OrderBook()
    apply(book, "snapshot", 10, bids)
    last_sizes = {Decimal(price): Decimal(size) for price, size in bids}
    assert book.bids.best_price() == max(price for price, size in last_sizes.items() if size)


def test_snapshot_with_one_wrong_level_among_many_changes_nothing() -> None:
    book = OrderBook()
    apply(book, "snapshot", 10, MANY)
    for wrong in (("95", "-1"), ("x", "1"), ("0", "1"), ("1e99", "1")):
        with pytest.raises(InvalidMessage):
            apply(book, "snapshot", 11, [("100", "9"), *MANY[1:], wrong])
        assert book.bids.reported() == decimals(dict(MANY))


# --- numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "levels",
    [
        [("100", "-1")],
        [("-100", "1")],
        [("0", "1")],
        [("0.00", "0")],
        [("NaN", "1")],
        [("100", "Infinity")],
        [("100", "")],
        [("", "1")],
        [("1_0", "1")],
        [(" 100", "1")],
        [("100\n", "1")],
        [("\u0661", "1")],
        [("0x10", "1")],
        [("1e999", "1")],
        [("1e-99", "1")],
        [("100", "1" + "0" * 20)],
        [("100", "0." + "0" * 20 + "1")],
        [("1" * 50, "1")],
    ],
)
@pytest.mark.parametrize("kind", ["snapshot", "delta"])
def test_levels_that_are_no_prices_and_sizes_are_refused_and_change_nothing(kind: str, levels: Any) -> None:
    book = full_book(10)
    good = [("97", "1")]
    for bids, asks in ((good + levels, good), (good, [("150", "1"), *levels])):
        with pytest.raises(InvalidMessage, match="expected"):
            apply(book, kind, 11, bids, asks)
        assert book.bids.reported() == decimals({"100": "1", "99": "2", "98": "3"})
        assert (book.update_id, book.in_sync) == (10, True)


def test_prices_and_sizes_are_taken_exactly() -> None:
    book = OrderBook()
    apply(book, "snapshot", 10, [("0.00000000000000000001", "99999999999999999999")], [("1e3", "1.5E-3")])
    assert book.bids.reported() == decimals({"0.00000000000000000001": "99999999999999999999"})
    assert book.asks.reported() == decimals({"1000": "0.0015"})


# --- looking without consuming -------------------------------------------------------------------


def test_best_and_top_levels_are_seen_with_what_is_left_of_them() -> None:
    book: Any = full_book()
    book.bids.consume(book.bids.best(), Decimal("0.25"))
    assert book.bids.peek() == (100, 1, Decimal("0.75"))
    assert book.bids.top(2) == [(100, 1, Decimal("0.75")), (99, 2, 2)]
    assert book.asks.top(5) == [(101, Decimal("1.5"), Decimal("1.5")), (102, Decimal("2.5"), Decimal("2.5"))]


def test_a_level_that_was_consumed_whole_is_seen_among_the_top_but_is_not_the_best() -> None:
    book: Any = full_book()
    book.bids.consume(book.bids.best(), Decimal(1))
    assert book.bids.peek() == (99, 2, 2)
    assert book.bids.top(2) == [(100, 1, 0), (99, 2, 2)]


@pytest.mark.parametrize("count", [1, 5, 39, 40, 41])
def test_top_levels_of_a_snapshot_are_the_best_of_all(count: int) -> None:
    bids = [(f"{200 - number}.5", f"{number + 1}") for number in range(40)]
    asks = [(f"{300 + number}.5", f"{number + 1}") for number in range(40)]
    book: Any = OrderBook()
    book.apply(book_message("snapshot", 10, bids, asks), 10)
    for side, levels in ((book.bids, bids), (book.asks, asks)):
        expected = [(Decimal(price), Decimal(size), Decimal(size)) for price, size in levels[:count]]
        assert side.top(count) == expected
        assert side.peek() == expected[0]
        assert len(side.reported()) == 40
        assert side.top(count) == expected


def test_an_empty_side_has_no_levels_to_see() -> None:
    book: Any = OrderBook()
    assert (book.bids.peek(), book.bids.top(5)) == (None, [])
