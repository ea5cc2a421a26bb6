"""The views of stored quotes and messages, on each edition of the database."""

from __future__ import annotations

import random
import re
from decimal import Decimal
from typing import Any

from tests.support.workspace import SCHEMA, Workspace

SPREADS = (
    "SELECT quoted_at, long_symbol, short_symbol, spread, spread_bps, size, age_ms FROM bybit.spread_history"
    " ORDER BY quoted_at, long_symbol, short_symbol"
)


def quote(
    place: Workspace,
    second: int,
    symbol: str,
    bid: str | None,
    ask: str | None,
    group: str = "a",
    **fields: Any,
) -> None:
    row = {
        "quoted_at": second * 1000,
        "channel": "linear" if symbol.endswith("PERP") else "spot",
        "symbol_name": symbol,
        "matching_key": group,
        "state": "waits for snapshot" if bid is None and ask is None else "in sync",
        "bid": bid,
        "bid_size": "2",
        "ask": ask,
        "ask_size": "3",
        "received_at": second * 1000 - 40,
        "number": second,
        **fields,
    }
    place.query(
        f"INSERT INTO bybit.quote ({', '.join(row)}) VALUES ({', '.join(['%s'] * len(row))})",  # noqa: S608
        *row.values(),
    )


def test_spread_history_has_both_directions_of_each_two_of_a_group(edition: Workspace) -> None:
    quote(edition, 1, "BTCPERP", "100", "101", received_at=500)
    quote(edition, 1, "BTCUSDT", "103", "104", bid_size="0.5")
    quote(edition, 1, "ETHUSDT", "7", "8", group="b")
    quote(edition, 2, "BTCPERP", "100", None)
    quote(edition, 2, "BTCUSDT", "103", "104")
    quote(edition, 3, "BTCPERP", None, None)
    quote(edition, 3, "BTCUSDT", "103", "104")
    assert edition.query(SPREADS) == [
        (1000, "BTCPERP", "BTCUSDT", 2, Decimal("198.0198"), Decimal("0.5"), 500),
        (1000, "BTCUSDT", "BTCPERP", -4, Decimal("-384.6154"), 2, 500),
        (2000, "BTCUSDT", "BTCPERP", -4, Decimal("-384.6154"), 2, 40),
    ]


def execution(place: Workspace, number: int, action: str, size: str, *, spread_id: str | None = "s") -> None:
    """Open at 100 and 110, or close at the same prices."""
    opens = action == "Open Spread"
    for leg, price, is_buy in (
        (("linear", "BTCPERP"), "100", opens),
        (("spot", "BTCUSDT"), "110", not opens),
    ):
        place.query(
            'INSERT INTO bybit."order" (channel, symbol_name, price, size, type, flux, action, spread_id,'
            " placed_at, execution_id, ts_orderbook, fee)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, 1, 0.5)",
            *leg,
            price,
            size,
            "buy" if is_buy else "sell",
            Decimal(price) * Decimal(size) * (-1 if is_buy else 1),
            action,
            spread_id,
            number * 1000,
            number,
        )


def marks(place: Workspace) -> list[tuple[Any, ...]]:
    return place.query("SELECT closed_pnl, entry_credit, fee, open_at_mark, total, marked_at FROM bybit.pnl")


def test_what_is_open_is_marked_at_the_newest_prices_of_each_leg(edition: Workspace) -> None:
    execution(edition, 1, "Open Spread", "3")
    execution(edition, 2, "Close Spread", "1")
    assert marks(edition) == [(0, 20, 2, None, None, None)]
    quote(edition, 5, "BTCPERP", "90", "91")
    quote(edition, 6, "BTCPERP", "99", "100")
    quote(edition, 7, "BTCPERP", None, None)
    assert marks(edition) == [(0, 20, 2, None, None, None)]
    quote(edition, 7, "BTCUSDT", "111", "112")
    # Closing sells 2 at 99 and buys 2 at 112: 26 paid, of which 20 were received at entry.
    assert marks(edition) == [(0, 20, 2, -6, -8, 6000)]
    (age,) = edition.query("SELECT mark_age_ms - (extract(epoch FROM now()) * 1000 - 6000) FROM bybit.pnl")[0]
    assert abs(age) < 60_000


def test_nothing_open_needs_no_quote(edition: Workspace) -> None:
    execution(edition, 1, "Open Spread", "3")
    execution(edition, 2, "Close Spread", "3")
    assert marks(edition) == [(0, 0, 2, 0, -2, None)]


def test_close_beyond_what_was_open_is_marked_as_what_it_has_opened(edition: Workspace) -> None:
    execution(edition, 1, "Open Spread", "1")
    execution(edition, 2, "Close Spread", "3", spread_id=None)
    quote(edition, 5, "BTCPERP", "99", "101")
    quote(edition, 5, "BTCUSDT", "108", "109")
    # Sold 2 too many at 100, bought 2 too many at 110: -20; buying at 101, selling at 108 brings 14.
    assert marks(edition) == [(0, 0, 2, -6, -8, 5000)]


def test_leftovers_are_marked_by_themselves(edition: Workspace) -> None:
    edition.query(
        "INSERT INTO bybit.leftover (trade_id, number, channel, symbol_name, size, flux, fee, reason, since)"
        " VALUES ('t', 1, 'spot', 'BTCUSDT', 2, -200, 1, 'x', 1),"
        " ('t', 2, 'spot', 'BTCUSDT', -1, 105, 0, 'x', 1)"
    )
    quote(edition, 5, "BTCUSDT", "103", "104")
    assert marks(edition) == [(0, 0, 1, -200 + 105 + 206 - 104, 6, 5000)]


def update(place: Workspace, u: int, number: int | None, kind: str = "delta", topic: str = "BTCUSDT") -> None:
    cts = 1000 + (number or 0)
    place.query(
        "INSERT INTO bybit.orderbook_update (ts_orderbook, update_id, sequence_id, channel, topic, type,"
        " published_at, number) VALUES (%s, %s, 1, 'spot', %s, %s, %s, %s)",
        cts,
        u,
        f"orderbook.50.{topic}",
        kind,
        cts + 5,
        number,
    )


def test_gaps_are_the_jumps_of_the_update_id_of_each_topic(edition: Workspace) -> None:
    update(edition, 10, 1, "snapshot")
    update(edition, 11, 2)
    update(edition, 99, 3, topic="ETHUSDT")
    update(edition, 14, 30)  # 12 and 13 are missing
    update(edition, 15, 31)
    update(edition, 40, 32, "snapshot")  # is none: a snapshot may follow on anything
    update(edition, 41, 33)
    update(edition, 1, 34, "snapshot")
    update(edition, 2, 35)
    update(edition, 100, 36, topic="ETHUSDT")
    assert edition.query(
        "SELECT topic, number, previous_id, update_id, missing, after_ms, published_at FROM bybit.gaps"
    ) == [("orderbook.50.BTCUSDT", 30, 11, 14, 2, 28, 1035)]


GAPS = "SELECT * FROM bybit.gaps ORDER BY channel, topic, number, update_id"


def checked(place: Workspace, wait_ms: int, portion_ms: int) -> int:
    """Have all gaps worked out that are due; return in how many portions."""
    portions = 0
    while place.query("SELECT bybit.check_gaps(%s, %s)", wait_ms, portion_ms) == [(True,)]:
        portions += 1
    return portions


def test_gaps_are_the_same_however_much_was_looked_at_before(edition: Workspace) -> None:
    chance = random.Random(5)
    ids = {"BTCUSDT": 0, "ETHUSDT": 100}
    update(edition, 7, None, topic="BTCUSDT")
    for number in range(1, 60):
        topic = chance.choice(list(ids))
        ids[topic] += chance.choice([1, 1, 1, 4])
        kind = chance.choice(["delta", "delta", "delta", "snapshot"])
        if kind == "snapshot":
            ids[topic] = chance.choice([1, ids[topic]])
        update(edition, ids[topic], number * 10, kind, topic)
        if chance.random() < 0.1:
            checked(edition, 25, 40)
    found = edition.query(GAPS)
    assert edition.query("SELECT count(*) > 3, max(ts_orderbook) FROM bybit.update_gap")[0][0]
    edition.query("SELECT bybit.forget_gaps()")
    assert edition.query(GAPS) == found
    assert checked(edition, 0, 100) > 3
    assert edition.query(GAPS) == found
    assert len(found) > 5


def test_no_portion_ends_between_messages_that_were_published_in_the_other_order(edition: Workspace) -> None:
    for u, number, cts in (
        (1, 1, 1000),
        (2, 2, 1030),
        (3, 3, 1020),
        (4, 4, 1040),
        (6, 6, 61_050),
        (7, 7, 61_060),
    ):
        update(edition, u, number)
        edition.query("UPDATE bybit.orderbook_update SET ts_orderbook = %s WHERE number = %s", cts, number)
    # After 1025 ms it would say that 3 comes after 1, and 2 after 3.
    assert checked(edition, 30, 25) > 0
    assert [row[5:7] for row in edition.query(GAPS)] == [(4, 6)]
    assert edition.query("SELECT ts_orderbook > 1040 FROM bybit.gap_check") == [(True,)]


def test_schema_names_no_function_of_the_community_edition_alone_without_asking_for_it() -> None:
    schema = SCHEMA.read_text()
    community = re.findall(r"time_bucket_gapfill|locf|add_job|add_retention_policy|compress_chunk", schema)
    assert community == []
