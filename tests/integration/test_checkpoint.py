"""The trading engine's start from a checkpoint in the database, and answers that it has forgotten."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import msgspec
import pytest

from blackbird.bybit.environment import OrderMode
from blackbird.engine.execution_store import ExecutionStore, Fenced, TooLate
from blackbird.market.instrument import Instrument
from blackbird.runtime.clock import milliseconds
from blackbird.trading.books import Books
from blackbird.trading.engine import TradingEngine
from blackbird.trading.records import Refusal
from config import Config
from database_manager import DatabaseManager
from tests.support.fake_history import new_engine, new_order
from tests.support.order_client import ACK, Accounts, OrderClient
from tests.support.order_client import new_order as order_message
from tests.support.workspace import Workspace, apply_schema, wait_for

SIMULATED = OrderMode.of(real=False, environment="demo", rest_url="")


class Scene:
    """A history of 30 executions with a checkpoint after the 20th."""

    def __init__(self, place: Workspace) -> None:
        self.place = place
        self.database = DatabaseManager("test", {**Config.DB_CONFIG, "database": place.name})
        self.store = self.another_store()
        self.store.claim()
        self.store.enter_mode()
        self.engine = new_engine()
        self.decide(20)
        self.checkpoint = self.engine.books()
        self.store.save_checkpoint(self.checkpoint)
        self.decide(10)

    def another_store(self) -> ExecutionStore:
        return ExecutionStore(uuid.uuid4(), self.database, Config.TABLES["order"], SIMULATED)

    def decide(self, count: int) -> None:
        self.store.add([self.engine.execute(new_order()) for _ in range(count)])

    def start(self) -> tuple[TradingEngine, Books | None]:
        """Return an engine with what the history gives it, and the checkpoint that it used."""
        engine = new_engine()
        return engine, self.store.replay(engine)

    def checkpoints(self) -> int:
        return len(self.place.query("SELECT 1 FROM bybit.checkpoint"))


@pytest.fixture
def scene(place: Workspace) -> Iterator[Scene]:
    made = Scene(place)
    yield made
    made.database.close()


def test_a_start_reads_the_checkpoint_and_what_came_after_it(scene: Scene) -> None:
    engine, used = scene.start()
    assert used == scene.checkpoint
    assert engine.books() == scene.engine.books()
    assert engine.spreads.listed() == scene.engine.spreads.listed()
    assert len(engine.orders) == 10
    assert scene.store.agrees(scene.checkpoint)


def test_a_later_checkpoint_takes_the_place_of_the_first(scene: Scene) -> None:
    scene.store.save_checkpoint(scene.engine.books())
    engine, used = scene.start()
    assert used == engine.books() == scene.engine.books()
    assert scene.checkpoints() == 1


def test_a_start_knows_the_answers_between_the_last_checkpoints(scene: Scene) -> None:
    refused = scene.engine.execute(msgspec.structs.replace(new_order(), expires_at=1))
    assert isinstance(refused, Refusal)
    scene.store.add([refused])
    scene.store.save_checkpoint(scene.engine.books())
    scene.decide(5)
    engine, used = scene.start()
    assert used is not None
    assert [mark.record_id for mark in used.marks] == [20, 31]
    orders = scene.engine.orders
    known = list(orders)[20:]
    assert [engine.first_answer(key) for key in known] == [scene.engine.first_answer(key) for key in known]
    assert (len(engine.orders), engine.orders.forgotten_ms) == (16, scene.checkpoint.newest_ms)


@pytest.mark.parametrize(
    "change",
    [
        'UPDATE bybit.checkpoint SET books = replace(books, \'"pnl":"\', \'"pnl":"1\')',
        "UPDATE bybit.checkpoint SET execution_id = 19",
        'UPDATE bybit."order" SET flux = flux WHERE execution_id = 25',
        'DELETE FROM bybit."order" WHERE execution_id = 3',
        # What no trigger sees.
        'ALTER TABLE bybit."order" DISABLE TRIGGER ALL; DELETE FROM bybit."order" WHERE execution_id = 3',
        'ALTER TABLE bybit."order" DISABLE TRIGGER ALL; UPDATE bybit."order" SET size=2, flux=2*flux',
    ],
    ids=["books", "id", "row changed", "rows deleted", "rows deleted unseen", "row changed unseen"],
)
def test_a_checkpoint_that_does_not_agree_is_not_used(scene: Scene, change: str) -> None:
    scene.place.query(change)
    engine, used = scene.start()
    assert used is None
    rows = scene.place.query(
        'SELECT channel, symbol_name, -sum(flux) FROM bybit."order" GROUP BY channel, symbol_name'
    )
    assert engine.risks == {Instrument(channel, symbol): exposure for channel, symbol, exposure in rows}


def test_books_that_the_rows_do_not_add_up_to_are_not_kept(scene: Scene) -> None:
    scene.engine.execute(new_order())  # not stored
    scene.store.save_checkpoint(scene.engine.books())
    assert scene.checkpoints() == 0
    assert scene.start()[1] is None


def test_comparing_behind_the_answers_removes_what_does_not_agree(scene: Scene) -> None:
    scene.place.query('ALTER TABLE bybit."order" DISABLE TRIGGER ALL')
    scene.place.query('DELETE FROM bybit."order" WHERE execution_id = 3')
    assert not scene.store.agrees(scene.checkpoint)
    assert scene.checkpoints() == 0


def test_an_engine_that_was_replaced_writes_no_checkpoint(scene: Scene) -> None:
    scene.another_store().claim()
    with pytest.raises(Fenced):
        scene.store.save_checkpoint(scene.engine.books())


def test_what_cannot_be_stored_before_it_expires_is_not_stored(scene: Scene) -> None:
    before = scene.place.query('SELECT count(*) FROM bybit."order"')
    late = [scene.engine.execute(new_order())]
    with pytest.raises(TooLate):
        scene.store.add(late, deadline_ms=milliseconds() - 1)
    assert scene.place.query('SELECT count(*) FROM bybit."order"') == before
    scene.store.add(late, deadline_ms=milliseconds() + 60_000)
    assert scene.place.query('SELECT count(*) FROM bybit."order"') != before


def test_emptying_the_orders_empties_the_checkpoint(scene: Scene) -> None:
    scene.place.query('TRUNCATE bybit."order"')
    assert scene.checkpoints() == 0
    apply_schema(scene.place)
    engine, used = scene.start()
    assert (used, engine.risks) == (None, {})


# --- the service ---------------------------------------------------------------------------------


def test_orders_that_were_forgotten_get_their_first_answer_also_after_a_restart(place: Workspace) -> None:
    engine = place.start_engine(KNOWN_ORDERS="1000")
    client = OrderClient(place)
    first = [order_message(), order_message(expires_at=1), order_message(order_id=None, size=3)]
    answers = [client.ask(order) for order in first]
    assert [answer["info"] for answer in answers] == ["order placed", "expired", "order placed"]
    later = [order_message() for _ in range(1500)]
    assert all(answer == ACK for answer in client.settle(later).values())
    wait_for(lambda: len(Accounts(place).orders) == 1502, "every execution stored")

    def ask_again() -> None:
        assert [client.ask(order) for order in first[:2]] == answers[:2]
        assert client.ask(first[2])["info"] == "order already placed"

    ask_again()
    assert engine.stop() == 0
    place.start_engine(KNOWN_ORDERS="1000")
    ask_again()
    assert len(Accounts(place).orders) == 1502
