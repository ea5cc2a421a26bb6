"""What retention removes from the database: whole old days of order books, and nothing else."""

from __future__ import annotations

import contextlib
import itertools
import threading

import pytest

from tests.support.book_feed import BookFeed, book_message, now_ms, updates
from tests.support.order_client import Accounts, OrderClient, new_order
from tests.support.workspace import Workspace, apply_schema, connect, wait_for

DAY = 86_400_000
TABLES = ("orderbook", "orderbook_update")


def make_plain(place: Workspace) -> None:
    for table in TABLES:
        place.query(
            f"CREATE TABLE plain (LIKE bybit.{table} INCLUDING ALL); DROP TABLE bybit.{table} CASCADE;"
            f"ALTER TABLE plain RENAME TO {table}; ALTER TABLE {table} SET SCHEMA bybit"
        )


def insert(place: Workspace, *times: int) -> None:
    """Insert a message of two levels for each exchange time."""
    for time in times:
        place.query(
            "INSERT INTO bybit.orderbook_update VALUES (%s, 1, 1, 'spot', 'orderbook.50.A', 'delta')", time
        )
        place.query(
            "INSERT INTO bybit.orderbook"
            " SELECT 'orderbook.50.A', 'delta', ts, 'spot', 'A', 1, 1, side, 1, 1, ts, 'a'"
            " FROM (VALUES ('bid'), ('ask')) AS sides (side), (VALUES (%s::bigint)) AS times (ts)",
            time,
        )


def forget(place: Workspace, before: int, *, only_archived: bool = False, most: int = 20_000) -> int:
    """Remove all there is to remove, and return in how many portions."""
    for portions in itertools.count():
        ((removed,),) = place.query("SELECT bybit.forget_before(%s, %s, %s)", before, only_archived, most)
        if not removed:
            return portions
    raise AssertionError


def kept(place: Workspace) -> list[int]:
    """Return the times of the messages that are there, which must be the same in both tables."""
    rows = [row for (row,) in place.query("SELECT ts_orderbook FROM bybit.orderbook_update ORDER BY 1")]
    levels = [row for (row,) in place.query("SELECT DISTINCT ts_orderbook FROM bybit.orderbook ORDER BY 1")]
    assert rows == levels
    return rows


def midnight() -> int:
    now = now_ms()
    return now - now % DAY


def test_whole_days_before_the_horizon_are_removed_from_both_tables(edition: Workspace) -> None:
    today = midnight()
    old = [today - 5 * DAY, today - 4 * DAY - 1, today - 4 * DAY, today - 3 * DAY - 1]
    young = [today - 3 * DAY, today - 3 * DAY + 1, today]
    insert(edition, *old, *young)
    assert forget(edition, today - 3 * DAY + DAY // 2) > 0
    assert kept(edition) == young


def test_a_portion_of_a_plain_table_is_bounded_and_the_levels_go_first(place: Workspace) -> None:
    make_plain(place)
    today = midnight()
    insert(place, *range(today - 5 * DAY, today - 5 * DAY + 10))
    assert place.query("SELECT bybit.forget_before(%s, most => 15)", today) == [(15,)]
    assert updates(place) == 10
    # 5 levels, then the 10 keys.
    assert forget(place, today, most=15) == 1
    assert kept(place) == []


def test_the_last_24_hours_are_kept_whatever_is_asked_for(edition: Workspace) -> None:
    now = now_ms()
    times = [now - hours * 3_600_000 for hours in range(24)]
    insert(edition, *times)
    forget(edition, now + 1000 * DAY)
    assert kept(edition) == sorted(times)


def test_only_days_whose_every_message_is_archived_are_removed_where_that_is_asked_for(
    edition: Workspace,
) -> None:
    today = midnight()
    days = [today - 9 * DAY, today - 8 * DAY, today - 7 * DAY]
    insert(edition, *days, *(day + 1 for day in days))
    assert forget(edition, today, only_archived=True) == 0
    for day, messages in ((days[0], 2), (days[1], 1), (days[2], 2)):
        edition.query("INSERT INTO bybit.archived_day VALUES (%s, %s, 0)", day, messages)
    # The second day has a message that its export does not have, and the third one waits for its turn.
    assert forget(edition, today, only_archived=True) == 1
    assert kept(edition)[0] == days[1]
    edition.query("UPDATE bybit.archived_day SET messages = 2")
    forget(edition, today, only_archived=True, most=1)
    assert kept(edition) == []


def test_a_second_service_does_nothing_while_one_removes(place: Workspace) -> None:
    insert(place, midnight() - 5 * DAY)
    with contextlib.closing(connect(place.environment, place.name)) as other:
        other.cursor().execute("SELECT pg_advisory_lock(5433, 1)")
        assert forget(place, now_ms()) == 0
    wait_for(lambda: forget(place, now_ms()) == 1)
    assert kept(place) == []


@pytest.mark.parametrize("is_plain", [False, True], ids=["as installed", "plain tables"])
def test_ingest_waits_for_no_lock_while_old_days_are_removed(place: Workspace, *, is_plain: bool) -> None:
    if is_plain:
        make_plain(place)
    today = midnight()
    insert(place, today - 5 * DAY, today)
    with contextlib.ExitStack() as stack:
        reader, remover, writer = (
            stack.enter_context(contextlib.closing(connect(place.environment, place.name))) for _ in range(3)
        )
        # Somebody reads the old day for long: it can't be dropped meanwhile.
        reader.autocommit = False
        reader.cursor().execute("SELECT count(*) FROM bybit.orderbook, bybit.orderbook_update")
        removing = threading.Thread(
            target=lambda: remover.cursor().execute("SELECT bybit.forget_before(%s)", (today,))
        )
        removing.start()
        stack.callback(removing.join)
        stack.callback(reader.rollback)
        waits = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s"
        pid = remover.info.backend_pid
        wait_for(lambda: not removing.is_alive() or place.query(waits, pid) == [(True,)])
        cursor = writer.cursor()
        cursor.execute("SET lock_timeout = 100")
        # Into a chunk that is there, and into new ones.
        for time in (today + 1, today + DAY):
            cursor.execute(
                "INSERT INTO bybit.orderbook_update VALUES (%s, 1, 1, 'spot', 'orderbook.50.A', 'delta')",
                (time,),
            )
            cursor.execute(
                "INSERT INTO bybit.orderbook VALUES"
                " ('orderbook.50.A', 'delta', %s, 'spot', 'A', 1, 1, 'bid', 1, 1, %s, 'a')",
                (time, time),
            )
    assert kept(place) == [today, today + 1, today + DAY]


def test_an_existing_database_is_migrated_without_loss(place: Workspace) -> None:
    make_plain(place)
    today = midnight()
    times = [today - day * DAY for day in range(5)]
    insert(place, *times)
    apply_schema(place)
    apply_schema(place)
    assert kept(place) == sorted(times)
    (extension,) = place.query("SELECT count(*) FROM pg_extension WHERE extname = 'timescaledb'")
    if extension[0]:
        chunks = place.query(
            "SELECT hypertable_name, count(*) FROM timescaledb_information.chunks"
            " WHERE hypertable_schema = 'bybit' GROUP BY 1 ORDER BY 1"
        )
        assert chunks == [("orderbook", 5), ("orderbook_update", 5)]
    # Copies are still recognised.
    place.start_storage()
    feed = BookFeed(place)
    for _ in range(2):
        feed.publish("storage", book_message("A", 7, bids=[("1", "1")], cts=today - DAY))
    wait_for(lambda: updates(place) == 6)
    wait_for(lambda: place.waiting("storage") == 0)
    assert updates(place) == 6


def test_the_service_removes_at_its_start_and_leaves_orders_alone(place: Workspace) -> None:
    place.start_engine()
    client = OrderClient(place)
    orders = [new_order(ts_buy=1, ts_sell=1) for _ in range(3)]
    client.settle(orders)
    wait_for(lambda: len(Accounts(place).orders) == 3)
    today = midnight()
    insert(place, today - 9 * DAY, today)
    storage = place.start_storage(RETENTION_DAYS="0")
    assert storage.stop() == 0
    assert len(kept(place)) == 2
    place.start_storage(RETENTION_DAYS="7")
    wait_for(lambda: updates(place) == 1)
    assert kept(place) == [today]
    assert len(Accounts(place).orders) == 3
