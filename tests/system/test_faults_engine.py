"""The trading engine when things die: what was ACKed stays, nothing is doubled, asking again tells which."""

from __future__ import annotations

import random
from decimal import Decimal

import pytest

from tests.support.broker_faults import cut_all
from tests.support.broker_proxy import BrokerProxy
from tests.support.order_client import (
    ACK,
    Accounts,
    OrderClient,
    closing,
    new_order,
    random_orders,
    state_at_start,
)
from tests.support.workspace import Service, Workspace, connect, wait_for

OWNER = "SELECT engine FROM bybit.history"


def executions(place: Workspace) -> int:
    return int(place.query('SELECT count(*) FROM bybit."order"')[0][0]) // 2


def give_back(place: Workspace) -> None:
    """Take the next order and hand it back, so that the broker marks it as delivered before."""
    channel = place.channel()
    method = wait_for(lambda: channel.basic_get("orders")[0], "an order in the queue")
    assert method is not None
    channel.basic_nack(method.delivery_tag or 0, requeue=True)
    channel.connection.close()


def known_orders(outcomes: dict[str, dict[str, str]]) -> list[str]:
    return sorted(identifier for identifier, answer in outcomes.items() if answer["status"] == "ACK")


@pytest.mark.parametrize("seed", [pytest.param(1), pytest.param(2, marks=pytest.mark.slow)])
def test_engine_killed_again_and_again_under_load_keeps_exactly_what_it_acked(
    place: Workspace, seed: int
) -> None:
    limit = 2_000
    rng = random.Random(seed)
    kills = 6
    engine = place.start_engine(MAX_RISK_OPEN_POSITION=str(limit))
    client = OrderClient(place)
    orders = random_orders(rng, 300)
    due = sorted(rng.sample(range(10, 280), kills))

    def kill_now_and_then() -> None:
        nonlocal engine
        if due and len(client.replies) >= due[0]:
            due.pop(0)
            engine.kill()
            engine = place.start("trading_engine", MAX_RISK_OPEN_POSITION=str(limit))

    outcomes = client.settle(orders, meanwhile=kill_now_and_then)
    assert not due
    acked = known_orders(outcomes)
    assert 40 < len(acked) < len(orders), "a run in which nothing or everything is refused shows little"
    engine.kill()
    engine = place.start_engine(MAX_RISK_OPEN_POSITION=str(limit))

    accounts = Accounts(place)
    assert sorted(accounts.orders) == acked
    assert state_at_start(engine) == (accounts.pnl, accounts.exposure)
    assert client.open_spreads() == accounts.open_spreads
    assert accounts.largest <= limit
    before = dict(outcomes)
    assert client.settle(orders) == before, "asked again, an order gets its first answer"
    assert Accounts(place).orders == accounts.orders


def test_order_asked_twice_is_executed_once_and_answered_alike(place: Workspace) -> None:
    place.start_engine()
    client = OrderClient(place)
    order = new_order()
    assert client.ask(order) == client.ask(order) == ACK
    refused = new_order(action="Close Spread", spread_id="unknown")
    first = client.ask(refused)
    assert first["info"].startswith("invalid order: spread_id")
    # The same id with other contents is the same order still.
    assert client.ask({**refused, "action": "Open Spread", "spread_id": "now-it-would-pass"}) == first
    wait_for(lambda: executions(place) == 1)


def test_redelivered_request_without_id_gets_its_first_answer(place: Workspace) -> None:
    engine = place.start_engine(UNIQUE_ORDER="false")
    client = OrderClient(place)
    body = new_order(order_id=None, spread_id=None)
    client.send(body, "c-1")
    client.wait("c-1")
    wait_for(lambda: executions(place) == 1)
    engine.kill()
    # As the broker would bring it again had the engine died before its acknowledgement.
    client.send(body, "c-1")
    give_back(place)
    place.start_engine(UNIQUE_ORDER="false")
    client.wait("c-1", count=2)
    assert client.answer("c-1") == ACK
    # The same contents as a new request is a new order.
    client.send(body, "c-2")
    client.wait("c-2")
    wait_for(lambda: executions(place) == 2)
    assert len(client.open_spreads()) == 2


def test_expired_order_is_never_executed(place: Workspace) -> None:
    place.start_engine().stop()
    client = OrderClient(place)
    late = new_order(expires_at=1_723_161_258_300)
    in_time = new_order(expires_at=32_503_680_000_000)
    for order in (late, in_time):
        client.send(order, order["order_id"])
    engine = place.start_engine()
    client.wait(late["order_id"], in_time["order_id"])
    assert client.answer(late["order_id"]) == {"status": "NOT ACK", "info": "expired"}
    assert client.answer(in_time["order_id"]) == ACK
    # Executed in time and asked about later, it is still executed; refused as expired, it stays refused.
    engine.kill()
    place.start_engine()
    assert client.ask(late)["info"] == "expired"
    assert client.ask({**in_time, "expires_at": 1_723_161_258_300}) == ACK
    assert len(client.open_spreads()) == 1
    wait_for(lambda: Accounts(place).orders == [in_time["order_id"]])


def test_two_clients_asking_for_the_same_headroom_get_it_once(place: Workspace) -> None:
    place.start_engine(MAX_RISK_OPEN_POSITION="1000")
    clients = [OrderClient(place), OrderClient(place)]
    orders = [new_order(size=1.5, sell_price=100) for _ in range(40)]
    for number, order in enumerate(orders):
        clients[number % 2].send(order, order["order_id"])
    for number, order in enumerate(orders):
        clients[number % 2].wait(order["order_id"])
    answers = [client.answer(key) for client in clients for key in client.replies]
    assert answers.count(ACK) == 6
    assert answers.count({"status": "NOT ACK", "info": "risk limit exceed"}) == 34
    wait_for(lambda: executions(place) == 6)
    accounts = Accounts(place)
    assert accounts.largest == 900
    # What is left of the limit is exactly there, after a restart too.
    assert clients[0].ask(new_order(size=1.00000001, sell_price=100))["info"] == "risk limit exceed"
    assert clients[0].ask(new_order(size=1, sell_price=100)) == ACK


def test_second_engine_waits_says_so_and_takes_over(place: Workspace) -> None:
    first = place.start_engine()
    client = OrderClient(place)
    order = new_order()
    assert client.ask(order) == ACK
    second = place.start("trading_engine")
    await_standby(place)
    for _ in range(5):
        assert client.ask(new_order()) == ACK
    assert place.consumers("orders") == 1
    first.kill()
    assert client.ask(order) == ACK
    assert len(client.open_spreads()) == 6
    assert second.is_running


def test_engine_with_the_journal_of_one_that_sleeps_stands_by_until_that_is_dead(place: Workspace) -> None:
    client = OrderClient(place)
    with BrokerProxy(place) as proxy:
        first = place.start_engine(MAX_RISK_OPEN_POSITION="1000", RABBITMQ_PORT=proxy.port)
        assert client.ask(new_order(size=4)) == ACK
        owner = place.query(OWNER)
        second = place.start("trading_engine", MAX_RISK_OPEN_POSITION="1000")
        await_standby(place)
        # The first stands still for so long that the broker gives it up.
        first.pause()
        assert proxy.cut() == 1
        first.go_on()
        order = new_order(size=5)
        assert client.settle([order])[order["order_id"]] == ACK
        assert place.query(OWNER) == owner
        first.kill()
        assert client.ask(order) == ACK, "the second knows what the first executed"
        assert client.ask(new_order(size=2))["info"] == "risk limit exceed"
        assert place.query(OWNER) != owner
        wait_for(lambda: executions(place) == 2)
        assert client.open_spreads() == Accounts(place).open_spreads
        assert second.stop() == 0


@pytest.mark.parametrize("quorum", [False, True], ids=["classic queue", "quorum queue"])
def test_standby_with_a_journal_of_its_own_takes_over_from_a_dead_engine(
    place: Workspace, *, quorum: bool
) -> None:
    if quorum:  # which grants any number of exclusive consumers
        place.channel().queue_declare("orders", durable=True, arguments={"x-queue-type": "quorum"})
    first = with_own_journal(place, "first")
    place.await_ready(first)
    second = with_own_journal(place, "second")
    client = OrderClient(place)
    await_standby(place)
    order = new_order()
    assert client.ask(order) == ACK
    wait_for(lambda: executions(place) == 1)
    assert place.consumers("orders") == 1
    first.kill()
    assert client.ask(new_order()) == ACK
    assert client.ask(order) == ACK
    assert len(client.open_spreads()) == 2
    wait_for(lambda: executions(place) == 2)
    assert second.stop() == 0
    assert place.query(OWNER) == [(None,)]


def test_standby_takes_over_at_once_from_an_engine_that_ends_in_order(place: Workspace) -> None:
    # It would have to wait a minute for a lease that is not given back.
    first = with_own_journal(place, "first", LEASE_MS="60000")
    place.await_ready(first)
    with_own_journal(place, "second", LEASE_MS="60000")
    await_standby(place)
    client = OrderClient(place)
    assert client.ask(new_order()) == ACK
    assert first.stop() == 0
    assert client.ask(new_order()) == ACK
    assert len(client.open_spreads()) == 2


def test_engine_that_slept_longer_than_its_lease_executes_nothing_more(place: Workspace) -> None:
    # A quorum queue keeps nobody out: the lease alone does.
    place.channel().queue_declare("orders", durable=True, arguments={"x-queue-type": "quorum"})
    first = with_own_journal(place, "first")
    place.await_ready(first)
    second = with_own_journal(place, "second")
    await_standby(place)
    client = OrderClient(place)
    assert client.ask(new_order()) == ACK
    wait_for(lambda: executions(place) == 1)
    owner = place.query(OWNER)
    first.pause()
    wait_for(lambda: place.query(OWNER) != owner, "the second has taken the history over")
    orders = [new_order(size=number) for number in range(1, 11)]
    for order in orders:  # some of them go to the one that sleeps
        client.send(order, order["order_id"])
    first.go_on()
    assert client.settle(orders) == {order["order_id"]: ACK for order in orders}
    wait_for(lambda: executions(place) == 11)
    assert client.open_spreads() == Accounts(place).open_spreads
    await_standby(place)  # which is the first, now
    assert first.stop() == 0
    assert second.is_running


def await_standby(place: Workspace) -> None:
    """Wait until an engine waits for another one's lease."""
    place.query("UPDATE bybit.history SET standby_seen = NULL")
    wait_for(
        lambda: place.query("SELECT true FROM bybit.history WHERE standby_seen IS NOT NULL"), "a standby"
    )


def test_with_the_database_as_journal_a_standby_knows_every_answer_of_a_dead_engine(place: Workspace) -> None:
    first = with_own_journal(place, "first", JOURNAL="database")
    place.await_ready(first)
    second = with_own_journal(place, "second", JOURNAL="database")
    await_standby(place)
    client = OrderClient(place)
    orders = [new_order() for _ in range(200)]

    def kill_halfway() -> None:
        if first.is_running and len(client.replies) > 100:
            first.kill()

    outcomes = client.settle(orders, meanwhile=kill_halfway)
    assert outcomes == {order["order_id"]: ACK for order in orders}
    assert executions(place) == 200, "stored before they were answered"
    assert client.open_spreads() == Accounts(place).open_spreads
    assert second.stop() == 0


def with_own_journal(place: Workspace, name: str, **settings: str) -> Service:
    """Start an engine as on another host: no common journal keeps it apart from others."""
    lease = {"LEASE_MS": "2000"}
    return place.start("trading_engine", JOURNAL_PATH=str(place.folder / name), **{**lease, **settings})


def test_engine_overtaken_in_its_sleep_by_one_with_another_journal_reads_its_state_anew(
    place: Workspace,
) -> None:
    # Two checkouts on one broker and database: no common journal keeps them apart.
    client = OrderClient(place)
    with BrokerProxy(place) as proxy:
        first = with_own_journal(place, "first", RABBITMQ_PORT=proxy.port, MAX_RISK_OPEN_POSITION="1000")
        place.await_ready(first)
        assert client.ask(new_order()) == ACK
        wait_for(lambda: executions(place) == 1)
        first.pause()
        assert proxy.cut() == 1
        second = with_own_journal(place, "second")
        order = new_order(size=8)
        assert client.settle([order])[order["order_id"]] == ACK
        wait_for(lambda: executions(place) == 2)
        second.kill()
        first.go_on()
        assert client.ask(new_order(size=2))["info"] == "risk limit exceed"
        assert client.ask(order) == ACK
        assert client.ask(new_order(size=0.5)) == ACK
        wait_for(lambda: executions(place) == 3)
        assert client.open_spreads() == Accounts(place).open_spreads
        assert first.stop() == 0


def test_cut_connection_under_load_loses_and_doubles_nothing(place: Workspace) -> None:
    orders = random_orders(random.Random(3), 300)
    client = OrderClient(place)
    cuts = 0
    with BrokerProxy(place) as proxy:
        engine = place.start_engine(RABBITMQ_PORT=proxy.port)

        def cut_now_and_then() -> None:
            nonlocal cuts
            if len(client.replies) > 45 * cuts:
                cuts += proxy.cut()

        outcomes = client.settle(orders, meanwhile=cut_now_and_then)
        assert cuts >= 5
        wait_for(lambda: executions(place) == len(known_orders(outcomes)))
        accounts = Accounts(place)
        assert sorted(accounts.orders) == known_orders(outcomes)
        assert client.open_spreads() == accounts.open_spreads
        assert engine.stop() == 0


def test_connection_cut_at_the_broker_is_made_again(place: Workspace) -> None:
    engine = place.start_engine()
    cut_all(place, engine)
    assert OrderClient(place).ask(new_order()) == ACK


def test_orders_queue_deleted_is_declared_again_and_work_goes_on(place: Workspace) -> None:
    place.start_engine()
    client = OrderClient(place)
    first, second = new_order(), new_order()
    assert client.ask(first) == ACK
    place.channel().queue_delete("orders")
    assert client.settle([second])[second["order_id"]] == ACK
    assert client.ask(first) == ACK
    assert len(client.open_spreads()) == 2


def test_stop_under_load_exits_0_within_5_seconds_with_every_answer_kept(place: Workspace) -> None:
    engine = place.start_engine()
    client = OrderClient(place)
    orders = random_orders(random.Random(4), 1500)
    for order in orders:
        client.send(order, order["order_id"])
    client.wait(orders[100]["order_id"])
    assert engine.stop(seconds=5) == 0
    answered = {key: client.answer(key) for key in list(client.replies)}
    # What it answered is stored or in the journal; what it did not answer is with the broker still.
    place.start_engine()
    outcomes = client.settle(orders, in_flight=1500, again=30)
    assert {key: outcomes[key] for key in answered} == answered
    wait_for(lambda: executions(place) == len(known_orders(outcomes)))
    assert sorted(Accounts(place).orders) == known_orders(outcomes)


def test_database_away_engine_acks_says_so_once_and_stores_later_though_killed(place: Workspace) -> None:
    engine = place.start_engine()
    client = OrderClient(place)
    orders = [new_order() for _ in range(30)]
    assert client.ask(orders[0]) == ACK
    wait_for(lambda: executions(place) == 1)
    blocker = Blocker(place)
    with blocker:
        assert set(map(str, client.settle(orders).values())) == {str(ACK)}
        assert "executions wait in the journal for the database" in engine.first_warning()
        assert executions_unlocked(blocker) == 1
        assert engine.output.count("executions wait in the journal") == 1
        engine.kill()
        engine = place.start("trading_engine")
        wait_for(lambda: place.consumers("orders") == 1 and place.lock_wait("trading engine"))
        again = new_order()
        client.send(again, again["order_id"])
        client.send({"action": "List Open Spreads"}, "question")
    client.wait("question")
    wait_for(lambda: executions(place) == 31)
    assert Accounts(place).open_spreads == client.answer("question")["open_spreads"]


class Blocker:
    """Another session that has the order table locked."""

    def __init__(self, place: Workspace) -> None:
        self.connection = connect(place.environment, place.name)

    def __enter__(self) -> None:
        self.connection.autocommit = False
        self.connection.cursor().execute('LOCK TABLE bybit."order" IN ACCESS EXCLUSIVE MODE')

    def __exit__(self, *_: object) -> None:
        self.connection.rollback()
        self.connection.close()


def executions_unlocked(blocker: Blocker) -> int:
    cursor = blocker.connection.cursor()
    cursor.execute('SELECT count(*) FROM bybit."order"')
    return int(cursor.fetchone()[0]) // 2


def test_database_connection_reset_again_and_again_loses_nothing(place: Workspace) -> None:
    place.start_engine()
    client = OrderClient(place)
    orders = random_orders(random.Random(5), 300)
    resets = 0

    def reset() -> None:
        nonlocal resets
        if resets < 15 and len(client.replies) > 15 * resets:
            resets += 1
            place.query(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = %s AND application_name = 'blackbird trading engine'",
                place.name,
            )

    outcomes = client.settle(orders, meanwhile=reset)
    assert resets == 15
    wait_for(lambda: executions(place) == len(known_orders(outcomes)))
    assert sorted(Accounts(place).orders) == known_orders(outcomes)
    assert client.open_spreads() == Accounts(place).open_spreads


def test_emptied_tables_are_a_new_start(place: Workspace) -> None:
    engine = place.start_engine()
    client = OrderClient(place)
    opened = new_order()
    assert client.ask(opened) == ACK
    refused = closing(opened, spread_id="unknown")
    assert client.ask(refused)["status"] == "NOT ACK"
    with Blocker(place):
        # One more that only the journal knows of.
        assert client.ask(new_order()) == ACK
        # Answered: what was taken before is acknowledged, so no order is redelivered after the restart.
        assert len(client.open_spreads()) == 2
        engine.kill()
    place.query('TRUNCATE bybit.orderbook, bybit."order"')
    engine = place.start_engine()
    assert state_at_start(engine) == (Decimal(0), {})
    assert client.open_spreads() == []
    assert client.ask(opened) == ACK
    wait_for(lambda: Accounts(place).orders == [opened["order_id"]])
    # The refusal is forgotten too: now it is judged anew.
    assert client.ask({**refused, "spread_id": opened["spread_id"]}) == ACK


def test_without_database_dump_state_is_in_memory_alone(place: Workspace) -> None:
    engine = place.start_engine(DUMP_ORDER_TO_DB="0", POSTGRES_PORT="1")
    assert "DUMP_ORDER_TO_DB is off" in engine.output
    client = OrderClient(place)
    order = new_order()
    assert client.ask(order) == client.ask(order) == ACK
    assert len(client.open_spreads()) == 1
    assert engine.stop() == 0
    place.start_engine(DUMP_ORDER_TO_DB="0", POSTGRES_PORT="1")
    assert client.open_spreads() == []
    assert executions(place) == 0
