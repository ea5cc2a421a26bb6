"""The demo on the local exchange: two subscriptions, and at the end a table of what was traded."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Coroutine
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pika
import psycopg2
from pika.exceptions import AMQPError

from blackbird.broker.session import connection_parameters
from blackbird.broker.topology import ORDERS, SIGNAL, STORAGE
from config import Config
from launcher.supervisor import Request, Supervisor, Terminal

SUBSCRIPTIONS = (
    {"symbol": "BTCUSDT", "channel": "spot", "matching_key": "a"},
    {"symbol": "BTCPERP", "channel": "linear", "matching_key": "a"},
)

SECONDS_TO_ANSWER = 60.0
SECONDS_TO_SETTLE = 20.0


class DemoError(Exception):
    """The demo cannot go on; the text says why."""


@dataclass(frozen=True)
class Summary:
    """What one run left in the database."""

    messages: int
    rows: int
    orders: dict[str, int]
    profit: Decimal
    exposures: dict[tuple[str, str], Decimal]
    unstored: int

    @property
    def traded(self) -> bool:
        """Tell whether messages and trades were stored."""
        return self.messages > 0 and sum(self.orders.values()) > 0

    def lines(self) -> list[str]:
        """Return the table as it is shown."""
        cells = [("messages stored", f"{self.messages:,}"), ("order-book rows", f"{self.rows:,}")]
        if self.unstored:
            cells.append(("messages left in the queue", f"{self.unstored:,}"))
        cells += [(f"orders: {action}", f"{count:,}") for action, count in self.orders.items()]
        if not self.orders:
            cells.append(("orders", "none"))
        cells.append(("PnL", f"{self.profit:,f}"))
        for (channel, symbol), exposure in self.exposures.items():
            cells.append((f"exposure {channel} {symbol}", f"{exposure:,f}"))
        left = max(len(name) for name, _ in cells)
        right = max(len(value) for _, value in cells)
        return ["", *(f"  {name:<{left}}  {value:>{right}}" for name, value in cells), ""]


async def play(supervisor: Supervisor, terminal: Terminal, request: Request, seconds: float | None) -> int:
    """Subscribe, let the services trade, and return the exit status; with `seconds` end with the table."""
    failure: Exception | None = None
    try:
        await _first(_trade(supervisor, seconds), request.wait(), _death(supervisor, seconds))
    except DemoError as error:
        failure = error
    if seconds is None and failure is None:
        return 0
    try:
        if not request.is_set():
            await _first(_finish(supervisor, terminal, settle=failure is None), request.wait())
    except (DemoError, psycopg2.Error) as error:
        failure = failure or error
    if request.signal is not None:
        supervisor.say("interrupted before the time of the demo was over")
        return 128 + request.signal
    if failure is not None:
        supervisor.say(f"the demo failed: {str(failure).strip()}")
        return 1
    return 0


async def _trade(supervisor: Supervisor, seconds: float | None) -> None:
    """Make the subscriptions, and return when the time of the demo is over."""
    for subscription in SUBSCRIPTIONS:
        detail = await _subscribe(subscription)
        supervisor.say(f"subscribed {subscription['channel']} {subscription['symbol']}: {detail}")
    if seconds is None:
        await asyncio.Event().wait()
    else:
        supervisor.say(f"the demo trades for {seconds:g} s")
        await asyncio.sleep(seconds)


async def _death(supervisor: Supervisor, seconds: float | None) -> None:
    """Fail when a program dies in a demo with an end; in one without, it is started again."""
    await supervisor.wait_for_death()
    if seconds is None:
        await asyncio.Event().wait()
    raise DemoError("a program ended before the demo was over")


async def _subscribe(subscription: dict[str, str]) -> str:
    """Subscribe as soon as the collector answers; return its answer."""
    deadline = asyncio.get_running_loop().time() + SECONDS_TO_ANSWER
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


async def _finish(supervisor: Supervisor, terminal: Terminal, *, settle: bool) -> None:
    """Let what is on its way arrive, from the exchange to the database, and show the table."""
    clean = True
    if settle:
        supervisor.say("the time is over; what is still on its way is stored")
        clean = await supervisor.stop("local_exchange", "market_data_collector_service")
        await _wait_until_empty(STORAGE, SIGNAL)
        clean = await supervisor.stop("signal_service") and clean
        await _wait_until_empty(ORDERS)
    clean = await supervisor.stop() and clean
    summary = await asyncio.to_thread(read_summary)
    terminal.plain(summary.lines())
    if supervisor.any_died():
        raise DemoError("a program ended before the demo was over")
    if not clean:
        raise DemoError("not every program ended as it was told to")
    if not summary.traded:
        raise DemoError("no trades were stored")


async def _wait_until_empty(*queues: str) -> None:
    deadline = asyncio.get_running_loop().time() + SECONDS_TO_SETTLE
    while any(await asyncio.to_thread(_waiting, *queues)):
        if asyncio.get_running_loop().time() > deadline:
            return
        await asyncio.sleep(0.1)


def _waiting(*queues: str) -> list[int]:
    """Return how many messages wait in each of the queues."""
    try:
        connection = pika.BlockingConnection(connection_parameters(**Config.BROKER_CONFIG, name="demo"))
        try:
            channel = connection.channel()
            return [channel.queue_declare(name, passive=True).method.message_count for name in queues]
        finally:
            connection.close()
    except (AMQPError, OSError) as error:
        raise DemoError(f"the broker does not tell what waits in its queues: {error!r}") from None


def read_summary() -> Summary:
    """Read what the run has left in the database and, unstored, in the broker."""
    unstored = _waiting(STORAGE)[0]
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
                'SELECT channel, symbol_name, sum(flux) FROM bybit."order" GROUP BY 1, 2 ORDER BY 1 DESC, 2'
            )
            fluxes = {(channel, symbol): flux for channel, symbol, flux in cursor.fetchall()}
    finally:
        connection.close()
    return Summary(
        messages=messages,
        rows=rows,
        orders=orders,
        profit=sum(fluxes.values(), Decimal(0)),
        exposures={leg: -flux for leg, flux in fluxes.items()},
        unstored=unstored,
    )


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
