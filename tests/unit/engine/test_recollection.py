"""Which requests are looked up in the database before they are decided."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from decimal import Decimal

import msgspec
import pytest
from pika.spec import BasicProperties

from blackbird.broker.session import SessionLost
from blackbird.engine.recollection import forgotten, recall
from blackbird.engine.requests import Request, decide
from blackbird.trading.engine import TradingEngine, request_key
from blackbird.trading.orders import QUESTION, Order, Reply, encode_order
from blackbird.trading.records import Execution, Refusal
from database_manager import DatabaseUnavailable
from tests.support.fake_history import new_order

NOW = 10_000_000


def new_engine() -> TradingEngine:
    return TradingEngine(limit=Decimal(10**6), unique_order=True, clock=lambda: NOW, known_orders=1000)


@pytest.fixture
def engine() -> TradingEngine:
    """Return an engine that began with a checkpoint of a while ago."""
    made = new_engine()
    made.orders.forget_up_to(NOW - 1_000_000)
    return made


def request(order: Order | bytes, *, redelivered: bool = False) -> Request:
    body = order if isinstance(order, bytes) else encode_order(order)
    return Request(1, redelivered, BasicProperties(reply_to="q", correlation_id="c"), body)


def without_id(order: Order) -> Order:
    return msgspec.structs.replace(order, order_id=None)


def test_only_orders_that_may_have_been_answered_are_looked_up(engine: TradingEngine) -> None:
    old, known, fresh, nameless = new_order(), new_order(), new_order(), without_id(new_order())
    engine.execute(known)
    fresh = msgspec.structs.replace(fresh, ts_buy=NOW)
    redelivered = without_id(new_order(size=2))
    requests = [request(each) for each in (old, known, fresh, nameless, b"garbage", QUESTION)]
    found = forgotten(engine, [*requests, request(redelivered, redelivered=True)])
    assert found.keys == [old.order_id, request_key("q", "c", encode_order(redelivered))]
    assert found.orders == [nameless, redelivered]
    assert forgotten(new_engine(), requests) == ([], []), "an engine that knows all"


class Database:
    """Has records, and is away as often as it is told."""

    def __init__(self, *records: Execution | Refusal, away: int = 0) -> None:
        self._records = list(records)
        self.away = away
        self.asked = 0

    async def find(self, keys: Sequence[str], orders: Sequence[Order]) -> list[Execution | Refusal]:
        self.asked += 1
        if self.away:
            self.away -= 1
            raise DatabaseUnavailable("away")
        assert keys or orders
        return self._records


def play(engine: TradingEngine, database: Database, *requests: Request, lost: bool = False) -> None:
    async def run() -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if lost:
            future.set_exception(SessionLost("gone"))
        await recall(engine, requests, database.find, future)

    asyncio.run(run())


def test_a_forgotten_order_gets_its_first_answer_and_trades_nothing(engine: TradingEngine) -> None:
    order, refused = new_order(), new_order()
    database = Database(Execution(1, order, 5), Refusal(2, "risk limit exceed", 5, refused.order_id))
    play(engine, database, request(order), request(refused))
    assert decide(engine, request(order)).reply == Reply("ACK", "order placed")
    assert decide(engine, request(refused)).reply == Reply("NOT ACK", "risk limit exceed")
    assert engine.risks == {}
    assert decide(engine, request(without_id(order))).reply == Reply("NOT ACK", "order already placed")


def test_orders_are_held_while_the_database_is_away(
    engine: TradingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blackbird.engine.recollection.SHORTEST_PAUSE", 0.001)
    database = Database(away=2)
    play(engine, database, request(new_order()))
    assert database.asked == 3


def test_orders_of_a_session_that_is_lost_meanwhile_are_left_to_the_next(engine: TradingEngine) -> None:
    with pytest.raises(SessionLost):
        play(engine, Database(away=1000), request(new_order()), lost=True)


def test_new_orders_do_not_wait_for_the_database(engine: TradingEngine) -> None:
    database = Database(away=1000)
    play(engine, database, request(msgspec.structs.replace(new_order(), ts_sell=NOW)))
    assert database.asked == 0
