"""The demo on the local exchange: subscriptions, and at the end a table of what was traded.

A replay of a stored market is a demo with another market, which ends when that has been played.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
from collections.abc import Coroutine
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import psycopg2

from blackbird.broker.feed_layout import FeedLayout
from blackbird.broker.topology import ORDERS, QUOTE, SIGNAL, STORAGE
from config import Config
from database_manager import Cursor
from launcher.queues import BrokerUnavailableError, look_up
from launcher.replay import Replay
from launcher.stop_request import StopRequest
from launcher.supervisor import Supervisor
from launcher.terminal import Terminal

SUBSCRIPTIONS = (
    {"symbol": "BTCUSDT", "channel": "spot", "matching_key": "a"},
    {"symbol": "BTCPERP", "channel": "linear", "matching_key": "a"},
)

ANSWER_SECONDS = 60.0
DRAIN_SECONDS = 20.0

DIED = "a program ended before the demo was over"


class DemoError(Exception):
    """The demo cannot go on; the text says why."""


@dataclass(frozen=True)
class Pnl:
    """What the run has earned, in quote coin; what is open is None where it could not be marked."""

    closed: Decimal
    open_at_mark: Decimal | None
    fee: Decimal
    total: Decimal | None

    def cells(self) -> list[tuple[str, str]]:
        """Return the lines of the table, the fees only where there are any."""
        fees = [("fees", f"{self.fee:,f}")] if self.fee else []
        return [
            ("PnL closed", f"{self.closed:,f}"),
            ("PnL open at mark", _or_unknown(self.open_at_mark)),
            *fees,
            ("PnL total", _or_unknown(self.total)),
        ]


def _or_unknown(amount: Decimal | None) -> str:
    return "no quotes" if amount is None else f"{amount:,f}"


@dataclass(frozen=True)
class Summary:
    """What one run left in the database."""

    messages: int
    rows: int
    orders: dict[str, int]
    pnl: Pnl
    exposures: dict[tuple[str, str], Decimal]
    unstored: int

    @property
    def traded(self) -> bool:
        """Return whether messages and trades were stored."""
        return self.messages > 0 and sum(self.orders.values()) > 0

    def lines(self) -> list[str]:
        """Return the table as it is shown."""
        cells = [("messages stored", f"{self.messages:,}"), ("order-book rows", f"{self.rows:,}")]
        if self.unstored:
            cells.append(("messages left in the queue", f"{self.unstored:,}"))
        cells += [(f"orders: {action}", f"{count:,}") for action, count in self.orders.items()]
        if not self.orders:
            cells.append(("orders", "none"))
        cells += self.pnl.cells()
        for (channel, symbol), exposure in self.exposures.items():
            cells.append((f"exposure {channel} {symbol}", f"{exposure:,f}"))
        left = max(len(name) for name, _ in cells)
        right = max(len(value) for _, value in cells)
        return ["", *(f"  {name:<{left}}  {value:>{right}}" for name, value in cells), ""]


async def play(
    supervisor: Supervisor,
    terminal: Terminal,
    request: StopRequest,
    seconds: float | None,
    replay: Replay | None = None,
) -> int:
    """Subscribe, let the services trade until the end is requested or `seconds` are over, and show the table.

    With `replay` it is over when that has been played. Returns the exit status: 0 for a demo that went well,
    and for one without `seconds` that was ended by request.
    """
    failures: list[str] = []
    try:
        await _first(_trade(supervisor, seconds, replay), request.wait(), _death(supervisor))
    except DemoError as error:
        failures.append(str(error))
    interrupted = request.is_set()
    terminal.freeze()
    if failures:
        supervisor.say("ending all programs")
    else:
        supervisor.say("ending in order: collector, what is still queued, then the rest (Ctrl-C: at once)")
    try:
        await _first(
            _finish(supervisor, terminal, drain=not failures, must_trade=not interrupted and not replay),
            request.wait_for_second(),
        )
    except DemoError as error:
        failures.append(str(error))
    supervisor.say(f"to look at it: POSTGRES_DB={Config.DB_CONFIG['database']} ./setup.sh psql")
    if failures:
        supervisor.say(f"the demo failed: {failures[0]}")
        return 1
    if interrupted and seconds is not None:
        supervisor.say("interrupted before the time of the demo was over")
        return 128 + (request.signal or 0)
    return 0


async def _trade(supervisor: Supervisor, seconds: float | None, replay: Replay | None) -> None:
    """Make the subscriptions, and return when the time of the demo is over."""
    for subscription in SUBSCRIPTIONS if replay is None else replay.subscriptions:
        detail = await _subscribe(subscription)
        supervisor.say(f"subscribed {subscription['channel']} {subscription['symbol']}: {detail}")
    if replay is not None:
        while not await asyncio.to_thread(replay.is_over):
            await asyncio.sleep(0.2)
        supervisor.say("all of it has been played")
    elif seconds is None:
        await asyncio.Event().wait()
    else:
        supervisor.say(f"the demo trades for {seconds:g} s")
        await asyncio.sleep(seconds)


async def _death(supervisor: Supervisor) -> None:
    """Fail when a program has ended by itself and is not restarted."""
    await supervisor.wait_until_one_gives_up()
    raise DemoError(DIED)


async def _subscribe(subscription: dict[str, str]) -> str:
    """Subscribe as soon as the collector answers; return its answer."""
    deadline = asyncio.get_running_loop().time() + ANSWER_SECONDS
    while True:
        try:
            status, answer = await asyncio.to_thread(_post, "/subscribe", subscription)
        except (OSError, http.client.HTTPException) as error:
            if asyncio.get_running_loop().time() > deadline:
                raise DemoError(f"the collector does not answer: {error}") from None
            await asyncio.sleep(0.2)
            continue
        # 202: the exchange is not reached yet; the collector keeps the subscription.
        if status in {200, 202}:
            return answer
        raise DemoError(f"the collector refuses {subscription}: {status} {answer}")


def _post(path: str, body: dict[str, str]) -> tuple[int, str]:
    host = "127.0.0.1" if Config.COLLECTOR_HOST == "0.0.0.0" else Config.COLLECTOR_HOST
    connection = http.client.HTTPConnection(host, Config.COLLECTOR_PORT, timeout=10)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read().decode("utf-8", "replace").strip()
    finally:
        connection.close()


async def _finish(supervisor: Supervisor, terminal: Terminal, *, drain: bool, must_trade: bool) -> None:
    """End the programs, with `drain` in the order in which a message passes them, and show the table."""
    clean = True
    if drain:
        clean = await supervisor.stop("market_data_collector_service")
        layout = FeedLayout(Config.SIGNAL_PARTITIONS)
        await _wait_until_empty(*layout.queues(STORAGE), *layout.queues(SIGNAL))
        clean = await supervisor.stop("signal_service") and clean
        await _wait_until_empty(ORDERS, QUOTE)
    clean = await supervisor.stop() and clean
    try:
        summary = await asyncio.to_thread(read_summary)
    except (BrokerUnavailableError, psycopg2.Error) as error:
        raise DemoError(f"there is no table of what it did: {str(error).strip()}") from None
    terminal.show_unmarked(summary.lines())
    if supervisor.any_gave_up():
        raise DemoError(DIED)
    if not clean:
        raise DemoError("not every program ended as it was told to")
    if must_trade and not summary.traded:
        raise DemoError("no trades were stored")


async def _wait_until_empty(*queues: str) -> None:
    """Return once all messages of the queues are delivered, after DRAIN_SECONDS in any case."""
    deadline = asyncio.get_running_loop().time() + DRAIN_SECONDS
    with contextlib.suppress(BrokerUnavailableError):
        while any(
            state.messages
            for state in (await asyncio.to_thread(look_up, Config.BROKER_CONFIG, *queues)).values()
        ):
            if asyncio.get_running_loop().time() > deadline:
                return
            await asyncio.sleep(0.1)


def read_summary() -> Summary:
    """Read what the run has left in the database and, unstored, in the broker.

    Raises BrokerUnavailableError or psycopg2.Error.
    """
    queues = FeedLayout(Config.SIGNAL_PARTITIONS).queues(STORAGE)
    unstored = sum(state.messages for state in look_up(Config.BROKER_CONFIG, *queues).values())
    where: dict[str, Any] = {**Config.DB_CONFIG, "connect_timeout": 5, "options": "-c statement_timeout=30s"}
    connection = psycopg2.connect(**where)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM bybit.orderbook_update")
            ((messages,),) = cursor.fetchall()
            cursor.execute("SELECT count(*) FROM bybit.orderbook")
            ((rows,),) = cursor.fetchall()
            cursor.execute(
                'SELECT action, count(DISTINCT execution_id) FROM bybit."order" GROUP BY 1 ORDER BY 1 DESC'
            )
            orders = dict(cursor.fetchall())
            cursor.execute(
                "SELECT channel, symbol_name, exposure FROM bybit.position ORDER BY channel DESC, symbol_name"
            )
            exposures = {(channel, symbol): exposure for channel, symbol, exposure in cursor.fetchall()}
            pnl = _read_pnl(cursor)
    finally:
        connection.close()
    return Summary(
        messages=messages,
        rows=rows,
        orders=orders,
        pnl=pnl,
        exposures=exposures,
        unstored=unstored,
    )


def _read_pnl(cursor: Cursor) -> Pnl:
    # A pair that cannot be marked leaves the sums without a value, not without the pair.
    cursor.execute(
        "SELECT coalesce(sum(closed_pnl + unwound_cash), 0), coalesce(sum(fee), 0),"
        " CASE WHEN count(*) = count(total) THEN coalesce(sum(open_at_mark), 0) END,"
        " CASE WHEN count(*) = count(total) THEN coalesce(sum(total), 0) END FROM bybit.pnl"
    )
    ((closed, fee, open_at_mark, total),) = cursor.fetchall()
    return Pnl(closed, open_at_mark, fee, total)


async def _first(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Wait for the first of the coroutines, cancel the others, and raise what it raised."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
