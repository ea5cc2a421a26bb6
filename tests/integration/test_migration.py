"""A database of an earlier version, brought up to date as setup.sh does it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.book_feed import BookFeed, book_message, updates
from tests.support.workspace import HERE, Workspace, apply_schema, wait_for

SCHEMAS = sorted((HERE / "tests" / "support" / "schemas").glob("*.sql"))

# What the version before wrote: two updates with their levels, a spread opened and closed in part, a refusal.
ROWS = """
INSERT INTO bybit.orderbook VALUES
  ('orderbook.50.BTCUSDT', 'snapshot', 2, 'spot', 'BTCUSDT', 7, 70, 'bid', 61837.24, 0.5, 1, 'a'),
  ('orderbook.50.BTCUSDT', 'snapshot', 2, 'spot', 'BTCUSDT', 7, 70, 'ask', 61837.64, 1.20, 1, 'a'),
  ('orderbook.50.BTCUSDT', 'delta', 12, 'spot', 'BTCUSDT', 8, 71, 'bid', 61837.24, 0, 11, 'a');
INSERT INTO bybit.orderbook_update VALUES
  (1, 7, 70, 'spot', 'orderbook.50.BTCUSDT', 'snapshot'),
  (11, 8, 71, 'spot', 'orderbook.50.BTCUSDT', 'delta');
INSERT INTO bybit."order" VALUES
  ('linear', 'BTCPERP', 100, 3, 'buy', -300, 900, 'one', 'Open Spread', 's', 1000, 1, NULL),
  ('spot', 'BTCUSDT', 110, 3, 'sell', 330, 800, 'one', 'Open Spread', 's', 1000, 1, NULL),
  ('spot', 'BTCUSDT', 101, 1, 'buy', -101, 1900, 'two', 'Close Spread', 's', 2000, 2, NULL),
  ('linear', 'BTCPERP', 100, 1, 'sell', 100, 1800, 'two', 'Close Spread', 's', 2000, 2, NULL);
INSERT INTO bybit.refused_order VALUES (3, 'three', NULL, 'risk limit exceed', 3000);
"""
TABLES = ("orderbook", "orderbook_update", '"order"', "refused_order", "history")


def contents(place: Workspace, columns: dict[str, list[str]]) -> dict[str, list[tuple[Any, ...]]]:
    """Return what these columns of each table hold."""
    return {
        table: place.query(f"SELECT {', '.join(names)} FROM bybit.{table} ORDER BY 1, 2, 3")  # noqa: S608
        for table, names in columns.items()
    }


def columns(place: Workspace) -> dict[str, list[str]]:
    found = place.query(
        "SELECT quote_ident(table_name), array_agg(column_name::text ORDER BY ordinal_position)"
        " FROM information_schema.columns WHERE table_schema = 'bybit' GROUP BY 1"
    )
    return {table: names for table, names in found if table in TABLES}


@pytest.fixture(params=SCHEMAS, ids=lambda path: path.stem)
def old(request: pytest.FixtureRequest, place: Workspace) -> Workspace:
    """A database as an earlier version left it."""
    place.query("DROP SCHEMA bybit CASCADE")
    schema: Path = request.param
    apply_schema(place, schema)
    place.query(ROWS)
    return place


def test_nothing_is_lost_and_columns_are_only_added_at_the_end(old: Workspace) -> None:
    before = columns(old)
    rows = contents(old, before)
    apply_schema(old)
    after = columns(old)
    assert {table: names[: len(before[table])] for table, names in after.items()} == before
    assert contents(old, before) == rows
    added = [
        f"bybit.{table}.{name}" for table, names in after.items() for name in names[len(before[table]) :]
    ]
    assert {"bybit.orderbook_update.number", "bybit.orderbook_update.published_at"} <= set(added)
    apply_schema(old)
    assert columns(old) == after
    assert contents(old, before) == rows


def test_services_go_on_where_the_earlier_version_ended(old: Workspace) -> None:
    apply_schema(old)
    old.start_storage()
    feed = BookFeed(old)
    stored = book_message("BTCUSDT", 8, bids=[("61837.24", "0")], kind="delta", cts=11)
    feed.publish("storage", {**stored, "data": {**stored["data"], "seq": 71}})
    feed.publish("storage", book_message("BTCUSDT", 9, bids=[("1", "1")], cts=21), headers={"number": 5})
    wait_for(lambda: updates(old) == 3)
    assert old.query("SELECT update_id, number FROM bybit.orderbook_update ORDER BY 1") == [
        (7, None),
        (8, None),
        (9, 5),
    ]
    old.start_engine()
    (spread,) = old.ask({"action": "List Open Spreads"})["open_spreads"]
    assert (spread["spread_id"], spread["quantity"]) == ("s", 2)
    assert old.query("SELECT closed_pnl, entry_credit FROM bybit.pnl") == [(9, 20)]
