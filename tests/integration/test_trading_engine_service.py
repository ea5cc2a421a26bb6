"""The trading engine as a process, on the real broker and database."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from blackbird.engine.journal import Journal
from config import Config, TableConfig
from database_manager import DatabaseManager
from local_exchange.process import ExchangeProcess
from tests.support.book_feed import dead_letters
from tests.support.bybit_account import KEY, SECRET
from tests.support.order_client import ACK, Accounts, OrderClient, closing, new_order
from tests.support.trade_model import new_state
from tests.support.workspace import PYTHON, Service, Workspace, apply_schema, connect, free_port, wait_for

ORDER = {
    "order_id": "first",
    "action": "Open Spread",
    "spread_id": "s1",
    "buy": ["linear", "BTCPERP"],
    "buy_price": 61800.3,
    "sell": ["spot", "BTCUSDT"],
    "sell_price": 61837.63,
    "size": 0.25,
    "ts_buy": 1723161256298,
    "ts_sell": 1723161256208,
}

STRANGE = ["\\N", "a\tb", "line\nline", "back\\slash\\", "\r", "'; DROP TABLE", "ü€😀", "NULL"]


def test_acked_order_is_two_rows(place: Workspace) -> None:
    place.start_engine()
    assert place.ask(ORDER) == {"status": "ACK", "info": "order placed"}
    rows = wait_for(lambda: place.query('SELECT type, flux FROM bybit."order" ORDER BY type'))
    assert rows == [("buy", Decimal("-15450.075")), ("sell", Decimal("15459.4075"))]
    assert place.ask({"action": "List Open Spreads"})["open_spreads"] == [
        {
            "spread_id": "s1",
            "long": ["linear", "BTCPERP"],
            "short": ["spot", "BTCUSDT"],
            "spread": Decimal("37.33"),
            "quantity": Decimal("0.25"),
            "long_price": Decimal("61800.3"),
            "short_price": Decimal("61837.63"),
        }
    ]


def test_close_after_100_round_trips_is_accepted_also_after_a_restart(place: Workspace) -> None:
    engine = place.start_engine()
    client = OrderClient(place)
    orders = []
    for _ in range(102):
        opened = new_order(buy_price=60_000, sell_price=60_010, size=1)
        orders += [opened, closing(opened, buy_price=69_999, sell_price=70_000)]
    *round_trips, open_101, close_101, open_102, close_102 = orders
    assert set(map(str, client.settle(round_trips).values())) == {str(ACK)}
    assert client.ask(open_101) == client.ask(close_101) == ACK
    assert client.ask(open_102) == ACK
    wait_for(lambda: len(Accounts(place).orders) == 203)
    assert min(Accounts(place).exposure.values()) < -900_000, "nearly at the limit of 1,000,000"
    assert engine.stop() == 0
    place.start_engine()
    assert client.ask(close_102) == ACK
    assert client.open_spreads() == []


CRASHES_ON_666 = """
import trading_engine_service as service
class CrashingEngine(service.TradingEngine):
    def execute(self, order, request_key=None):
        if order.size == 666:
            raise ZeroDivisionError("a fault of the program")
        return super().execute(order, request_key)
service.TradingEngine = CrashingEngine
service.main()
"""


def test_order_that_crashes_the_handler_is_tried_twice_and_put_aside_and_the_others_are_executed(
    place: Workspace,
) -> None:
    log = place.folder / "crashing.log"
    engine = Service([PYTHON, "-c", CRASHES_ON_666], place.environment, log)
    try:
        wait_for(lambda: place.consumers("orders") == 1, "the engine is at work")
        client = OrderClient(place)
        good = [new_order(order_id=f"good {number}", spread_id=f"s {number}") for number in range(20)]
        poison = new_order(order_id="poison", size=666)
        for order in (*good[:10], poison, *good[10:]):
            client.send(order, order["order_id"])
        client.wait("poison", *(order["order_id"] for order in good))
        assert client.answer("poison") == {"status": "NOT ACK", "info": "internal error"}
        assert {str(client.answer(order["order_id"])) for order in good} == {str(ACK)}
        assert engine.output.count("ZeroDivisionError: a fault of the program") == 2
        assert client.ask(poison)["info"] == "internal error", "asked again, its first answer"
        wait_for(lambda: sorted(Accounts(place).orders) == sorted(order["order_id"] for order in good))
        assert client.open_spreads() == Accounts(place).open_spreads
        letters = dead_letters(place, "orders")
        assert [json.loads(body)["order_id"] for _, body in letters] == ["poison"]
        assert "crashed the handler" in letters[0][0]
        assert engine.stop() == 0
    finally:
        if engine.process.poll() is None:
            engine.kill()


# --- simulated and real histories ----------------------------------------------------------------

# A real engine; its exchange is to be reached only in what `Exchange` has added.
REAL = {
    "REAL_ORDER_SENDING": "true",
    "API_KEY": KEY,
    "API_SECRET": SECRET,
    "BYBIT_REST_URL": "http://127.0.0.1:1",
    "BYBIT_WS_URL": "ws://127.0.0.1:1",
}
TESTNET = {"BYBIT_ENVIRONMENT": "testnet"}


@pytest.fixture(scope="module")
def exchange() -> Iterator[Exchange]:
    with ExchangeProcess("--rate", "0") as process:
        yield Exchange(process)


class Exchange:
    """Adds the exchange's addresses to the settings of a real engine."""

    def __init__(self, process: ExchangeProcess) -> None:
        self._addresses = {"BYBIT_REST_URL": process.rest_url, "BYBIT_WS_URL": process.url}

    def reached(self, settings: dict[str, str]) -> dict[str, str]:
        return {**settings, **self._addresses} if "REAL_ORDER_SENDING" in settings else settings


def history(place: Workspace) -> tuple[str | None, str | None]:
    ((mode, environment),) = place.query("SELECT mode, environment FROM bybit.history")
    return mode, environment


def refused(place: Workspace, **settings: str) -> str:
    """Start an engine that must end by itself; return the one line that says why."""
    engine = place.start("trading_engine", **settings)
    assert engine.process.wait(20) not in {0, -15}
    lines = [line for line in engine.output.splitlines() if line.startswith("setting ")]
    assert len(lines) == 1, engine.output
    assert "Traceback" not in engine.output
    return lines[0]


@pytest.mark.parametrize("service", ["market_data_collector", "data_storage", "signal", "trading_engine"])
@pytest.mark.parametrize(
    ("settings", "text"), [({}, "SIMULATED ORDERS"), (REAL, "REAL ORDERS to 127.0.0.1:1")]
)
def test_first_line_says_which_orders_are_placed(
    place: Workspace, service: str, settings: dict[str, str], text: str
) -> None:
    collector = {"COLLECTOR_PORT": str(free_port()), "BYBIT_WS_URL": "ws://127.0.0.1:1"}
    started = place.start(service, **{**collector, **settings})
    wait_for(lambda: "\n" in started.output, "a line in the log")
    assert text in started.output.splitlines()[0]


def test_history_without_rows_takes_on_any_mode(place: Workspace, exchange: Exchange) -> None:
    for settings, kind in (({}, "simulated"), (exchange.reached(REAL), "real"), ({}, "simulated")):
        engine = place.start_engine(**settings)
        assert history(place) == (kind, "demo")
        assert engine.stop() == 0


@pytest.mark.parametrize(
    ("made_with", "started_with"),
    [({}, REAL), (REAL, {}), ({}, TESTNET), (TESTNET, {}), (REAL, {**REAL, **TESTNET})],
    ids=lambda settings: "-".join(settings) or "default",
)
def test_history_of_another_mode_or_environment_is_refused(
    place: Workspace, exchange: Exchange, made_with: dict[str, str], started_with: dict[str, str]
) -> None:
    made_with, started_with = exchange.reached(made_with), exchange.reached(started_with)
    engine = place.start_engine(**made_with)
    client = OrderClient(place)
    order = new_order()
    answer = client.ask(order)
    assert engine.stop() == 0
    before = place.query("SELECT * FROM bybit.history")
    line = refused(place, **started_with)
    assert "REAL_ORDER_SENDING" in line
    assert "BYBIT_ENVIRONMENT" in line
    assert place.query("SELECT * FROM bybit.history") == before
    # It is usable as before, and an emptied one by either.
    engine = place.start_engine(**made_with)
    assert client.ask(order) == answer
    assert engine.stop() == 0
    place.query('TRUNCATE bybit."order"')
    place.start_engine(**started_with)


def test_orders_that_only_the_journal_has_are_of_its_mode_too(place: Workspace, exchange: Exchange) -> None:
    engine = place.start_engine()
    client = OrderClient(place)
    order = new_order()
    with connect(place.environment, place.name) as locker:
        locker.autocommit = False
        locker.cursor().execute('LOCK TABLE bybit."order" IN ACCESS EXCLUSIVE MODE')
        assert client.ask(order) == ACK
        engine.kill()
        locker.rollback()
    locker.close()
    assert Accounts(place).orders == []
    refused(place, **exchange.reached(REAL))
    place.start_engine()
    assert Accounts(place).orders == [order["order_id"]]


def test_history_that_is_older_than_its_mode_was_simulated(place: Workspace, exchange: Exchange) -> None:
    engine = place.start_engine()
    client = OrderClient(place)
    order = new_order()
    assert client.ask(order) == ACK
    assert engine.stop() == 0
    # As a database was before, and as applying the schema to it leaves it.
    place.query("ALTER TABLE bybit.history DROP COLUMN mode, DROP COLUMN environment")
    apply_schema(place)
    assert history(place) == (None, None)
    refused(place, **exchange.reached(REAL))
    engine = place.start_engine(**TESTNET)
    assert history(place) == ("simulated", "testnet")
    assert client.ask(order) == ACK


@pytest.mark.parametrize(
    ("settings", "variable"),
    [
        ({"BYBIT_ENVIRONMENT": "mainnet"}, "REAL_MONEY"),
        (
            {
                "BYBIT_ENVIRONMENT": "mainnet",
                "REAL_MONEY": "true",
                "BYBIT_REST_URL": "https://api-demo.bybit.com",
            },
            "BYBIT_REST_URL",
        ),
        ({"BYBIT_REST_URL": "https://api.bybit.com"}, "BYBIT_REST_URL"),
        ({"BYBIT_REST_URL": "https://api-demo.bybit.com"}, "BYBIT_REST_URL, BYBIT_WS_URL"),
        ({"BYBIT_REST_URL": ""}, "BYBIT_REST_URL, BYBIT_WS_URL"),
        ({"DUMP_ORDER_TO_DB": "false"}, "DUMP_ORDER_TO_DB"),
    ],
)
def test_real_orders_that_go_astray_or_are_not_stored_are_refused_at_start(
    place: Workspace, settings: dict[str, str], variable: str
) -> None:
    assert refused(place, **{**REAL, **settings}).startswith(f"setting {variable}: expected ")


# --- texts of any characters ---------------------------------------------------------------------


def test_rows_of_any_characters_are_copied_as_they_are(place: Workspace) -> None:
    place.query("CREATE TABLE odd (number numeric, text text, nothing text)")
    settings = {**Config.DB_CONFIG, "database": place.name}
    database = DatabaseManager("test", settings)
    rows = [(Decimal("1.50"), text, None) for text in STRANGE]
    table = TableConfig("odd", ["number", "text", "nothing"])
    database.transaction(lambda cursor: database.copy_rows(cursor, table, rows))
    database.close()
    assert place.query("SELECT * FROM odd") == rows


def test_ids_of_any_characters_are_stored_and_known_again(place: Workspace) -> None:
    engine = place.start_engine()
    client = OrderClient(place)
    orders = [new_order(order_id=f"o{text}", spread_id=f"s{text}") for text in STRANGE]
    for order in orders:
        assert client.ask(order) == ACK
    refused = [closing(orders[0], order_id=f"r{text}", spread_id="unknown") for text in STRANGE]
    for order in refused:
        assert client.ask(order)["status"] == "NOT ACK"
    assert engine.stop() == 0
    stored = place.query('SELECT DISTINCT order_id, spread_id FROM bybit."order"')
    assert sorted(stored) == sorted((order["order_id"], order["spread_id"]) for order in orders)
    assert {row[0] for row in place.query("SELECT order_id FROM bybit.refused_order")} == {
        order["order_id"] for order in refused
    }
    place.start_engine()
    assert [spread["spread_id"] for spread in client.open_spreads()] == [
        order["spread_id"] for order in orders
    ]
    assert client.ask(orders[1]) == ACK
    assert len(client.open_spreads()) == len(orders)


def test_trades_that_are_open_at_an_exchange_are_not_forgotten_by_a_simulation(place: Workspace) -> None:
    engine = place.start_engine()
    assert engine.stop() == 0
    (path,) = Path(place.environment["JOURNAL_PATH"]).glob("*.sqlite")
    with contextlib.closing(Journal(path)) as journal:
        journal.put_trade(new_state())
    line = refused(place)
    assert line.startswith("setting REAL_ORDER_SENDING: expected true, as 1 real trades in the journal")
