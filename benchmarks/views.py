"""The views at a prompt: a million executions, a day of quotes of 12 instruments, five million messages.

Each has to answer within 1 s.

The ceiling of storing executions is bare COPY into the same table with its trigger off; that the totals which
the trigger keeps are right is checked against sums of the orders.
"""

from __future__ import annotations

import contextlib
import io
import random
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.place import place
from benchmarks.results import Row, check, median, progress, thousands
from tests.support.workspace import connect

PAIRS = 6
DAY_SECONDS = 86_400
BEGIN_MS = 1_800_000_000_000
BATCH = 500  # executions in a transaction, as the engine stores those of a busy tenth of a second

# What docs/looking.md shows, and what pages and scripts ask.
QUERIES = {
    "position": "SELECT * FROM bybit.position",
    "execution": "SELECT * FROM bybit.execution ORDER BY execution_id DESC LIMIT 100",
    "spread": "SELECT count(*), sum(closed_pnl), sum(cash) FROM bybit.spread",
    "open_spread": "SELECT * FROM bybit.open_spread ORDER BY execution_id",
    "pnl": "SELECT * FROM bybit.pnl",
    "spread_history": (
        "SELECT count(*), max(spread_bps), avg(size) FROM bybit.spread_history"
        " WHERE long_symbol = 'T001PERP' AND short_symbol = 'T001USDT'"
    ),
    "latency": "SELECT * FROM bybit.latency ORDER BY hour",
    "gaps": "SELECT count(*), sum(missing) FROM bybit.gaps",
    "open_leftover": "SELECT * FROM bybit.open_leftover",
    "last minute of spread_history": (
        "SELECT * FROM bybit.spread_history"
        " WHERE quoted_at > (SELECT max(quoted_at) FROM bybit.quote) - 60000"
    ),
}


def _legs(number: int) -> tuple[str, str]:
    name = f"T{number % PAIRS + 1:03}"
    return f"linear\t{name}PERP", f"spot\t{name}USDT"


def order_lines(executions: int) -> Iterator[str]:
    """Yield the two lines of COPY of each execution: opens, and closes of a random one that is open."""
    chance = random.Random(1)
    opened: list[list[int]] = [[] for _ in range(PAIRS)]
    for number in range(1, executions + 1):
        pair = number % PAIRS
        perp, spot = _legs(number)
        mine = opened[pair]
        closes = bool(mine) and (chance.random() < 0.5 or len(mine) > 50)
        if closes:
            opening = mine.pop(chance.randrange(len(mine)))
        else:
            opening = number
            mine.append(number)
        buy, sell = (spot, perp) if closes else (perp, spot)
        price = 60_000 + chance.randrange(100)
        at = BEGIN_MS + number * DAY_SECONDS * 1000 // executions
        ages = [chance.randrange(1, 40) for _ in range(3)]
        action = "Close Spread" if closes else "Open Spread"
        tail = (
            f"{at - 50 - sum(ages)}\to{number}\t{action}\ts{opening}\t{at}\t{number}\t\\N"
            f"\t{at - sum(ages)}\t{at - sum(ages[:2])}\t{at - ages[0]}\n"
        )
        yield (
            f"{buy}\t{price}\t0.25\tbuy\t{-price / 4}\t{tail}"
            f"{sell}\t{price + 12.5}\t0.25\tsell\t{(price + 12.5) / 4}\t{tail}"
        )


def _copy(cursor: Any, lines: list[str]) -> float:
    begin = time.perf_counter()
    for at in range(0, len(lines), BATCH):
        cursor.copy_expert(
            'COPY bybit."order" (channel, symbol_name, price, size, type, flux, ts_orderbook, order_id,'
            " action, spread_id, placed_at, execution_id, request_key, published_at, received_at, decided_at)"
            " FROM STDIN",
            io.StringIO("".join(lines[at : at + BATCH])),
        )
    return time.perf_counter() - begin


def _fill_quotes(cursor: Any) -> None:
    cursor.execute(
        "INSERT INTO bybit.quote SELECT %s + second * 1000, leg.channel,"
        " format('T%%s%%s', lpad(pair::text, 3, '0'), leg.suffix), 'g' || pair, 'in sync',"
        " 60000 + (second * 7 + pair) %% 13 - leg.less, 1.5, 60001 + (second * 7 + pair) %% 13, 0.75,"
        " %s + second * 1000 - 40, second"
        " FROM generate_series(0, %s) AS second, generate_series(1, %s) AS pair,"
        " (VALUES ('spot', 'USDT', 0), ('linear', 'PERP', 1)) AS leg (channel, suffix, less)",
        (BEGIN_MS, BEGIN_MS, DAY_SECONDS - 1, PAIRS),
    )


def _fill_updates(cursor: Any, count: int) -> None:
    """Store messages of 12 streams over a day, of which each thousandth is missing, as storage does."""
    cursor.execute(
        "INSERT INTO bybit.orderbook_update (ts_orderbook, update_id, sequence_id, channel, topic, type,"
        " published_at, number)"
        " SELECT at, id, id, leg.channel,"
        " format('orderbook.50.T%%s%%s', lpad(pair::text, 3, '0'), leg.suffix), 'delta',"
        " at + 40, (at + 40) * 1000000 + pair * 2 + leg.less"
        " FROM generate_series(1, %s) AS id, generate_series(1, %s) AS pair,"
        " (VALUES ('spot', 'USDT', 0), ('linear', 'PERP', 1)) AS leg (channel, suffix, less),"
        " LATERAL (SELECT %s + id::bigint * %s / %s AS at) AS time WHERE id %% 1000 <> 0",
        (count // PAIRS // 2, PAIRS, BEGIN_MS, DAY_SECONDS * 1000, count // PAIRS // 2),
    )
    cursor.execute("ANALYZE bybit.orderbook_update")


def _look_for_gaps(cursor: Any) -> float:
    """Look at all messages, as data storage does once a minute; return the seconds of the longest portion."""
    longest = 0.0
    more = True
    while more:
        begin = time.perf_counter()
        cursor.execute("SELECT bybit.check_gaps()")
        more = cursor.fetchone()[0]
        longest = max(longest, time.perf_counter() - begin)
    return longest


def _check_totals(cursor: Any) -> None:
    cursor.execute(
        'SELECT (SELECT sum(flux) FROM bybit."order") = (SELECT sum(cash) FROM bybit.pnl),'
        " (SELECT sum(closed_pnl + entry_credit) FROM bybit.pnl) = (SELECT sum(cash) FROM bybit.spread),"
        ' (SELECT count(*) FROM bybit."order") = (SELECT sum(executions) FROM bybit.position),'
        " (SELECT count(*) FROM bybit.pnl WHERE total IS NOT NULL)"
    )
    found = cursor.fetchone()
    check(found == (True, True, True, PAIRS), f"views: totals differ from the orders: {found}")


def _seconds(cursor: Any, query: str, rounds: int) -> float:
    taken = []
    for _ in range(rounds):
        begin = time.perf_counter()
        cursor.execute(query)
        cursor.fetchall()
        taken.append(time.perf_counter() - begin)
    return median(taken)


def run(*, quick: bool) -> list[Row]:
    executions = 100_000 if quick else 1_000_000
    lines = list(order_lines(executions))
    rows = []
    with place() as there, contextlib.closing(connect(there.environment, there.space.name)) as database:
        cursor = database.cursor()
        progress("views: storing without totals")
        cursor.execute('ALTER TABLE bybit."order" DISABLE TRIGGER count_orders')
        part = lines[: executions // 10]
        bare = _copy(cursor, part)
        cursor.execute('TRUNCATE bybit."order"')
        cursor.execute('ALTER TABLE bybit."order" ENABLE TRIGGER count_orders')
        progress(f"views: storing {executions:,} executions")
        seconds = _copy(cursor, lines)
        rows.append(
            Row(
                "executions stored with their totals, 500 a transaction",
                thousands(executions / seconds, "executions/s"),
                f"{thousands(len(part) / bare, 'executions/s')} without totals",
                bare / len(part) * executions / seconds,
            )
        )
        progress("views: a day of quotes")
        _fill_quotes(cursor)
        cursor.execute('ANALYZE bybit.quote; ANALYZE bybit."order"; ANALYZE bybit.spread_total')
        _check_totals(cursor)
        updates = executions * 5
        progress(f"views: {updates:,} messages")
        _fill_updates(cursor, updates)
        longest = _look_for_gaps(cursor)
        rows.append(
            Row(
                "ten minutes of messages looked at for gaps",
                f"{longest * 1000:.0f} ms at most",
                note="in storage's upkeep",
            )
        )
        # As the engine has, with each checkpoint.
        cursor.execute("SELECT bybit.count_latencies(%s)", (executions - 20_000,))
        for name, query in QUERIES.items():
            taken = _seconds(cursor, query, 3 if quick else 5)
            rows.append(
                Row(
                    f"{name}, of {executions:,} executions, {DAY_SECONDS * PAIRS * 2:,} quotes,"
                    f" {updates:,} messages",
                    f"{taken * 1000:.0f} ms",
                    "1 s asked",
                    taken,
                    most=1.0,
                    note="ratio: seconds",
                )
            )
    return rows
