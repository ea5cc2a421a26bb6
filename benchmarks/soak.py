"""The whole system under random faults for minutes, and then the proof from the database alone.

    uv run benchmarks/soak.py --minutes 20 --seed 1

Runs a broker and a database of its own, the local exchange, the four services, and a third-party client that
competes with the signal engine for the same exposure; breaks one of them every few seconds. At the end the
market rests, and these must hold:

- every update that the broker was given is stored once, level by level, and nothing else is
- each of them is a push of the exchange, as it was sent
- two rows per execution; exposure is -sum(flux) and PnL sum(flux), as added up here row by row
- no exposure was ever beyond the limit
- the trading engine lists as open what the rows leave open, and begins with their exposure and PnL when it
  is started again
- what the third-party client knows as ACKed is executed once, what it knows as refused is not; asked again,
  each of its orders gets its first answer
- every service that was asked to end did so within 5 s with exit status 0, and none met an unexpected error
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pika.exceptions

from local_exchange.process import ExchangeProcess
from tests.support.broker_faults import connections, cut
from tests.support.live_system import SERVICES, SUBSCRIPTIONS, LiveSystem, ServerPair, update_of
from tests.support.order_client import ACK, Accounts, OrderClient, new_order, random_orders, state_at_start
from tests.support.workspace import Workspace, connect, wait_for, workspace

# Low enough that the limit is met all the time.
LIMIT = Decimal(100_000)
LONGEST_FAULT_SECONDS = 8.0
SECONDS_BETWEEN = 4.0
SETTLE_SECONDS = 120.0

EXCHANGE_FAULTS: tuple[tuple[str, dict[str, object]], ...] = (
    ("drop", {"how": "close"}),
    ("drop", {"how": "fin"}),
    ("drop", {"how": "rst"}),
    ("gap", {"count": 3}),
    ("repeat", {}),
    ("restart", {}),
    ("snapshot", {}),
    ("cross", {}),
    ("delete_absent", {}),
    ("silence", {"seconds": 8}),
    ("refuse_tcp", {"seconds": 5}),
    ("hang_handshake", {"seconds": 5}),
    ("garbage", {"kind": "text"}),
    ("garbage", {"kind": "cut"}),
    ("garbage", {"kind": "huge"}),
)


class ThirdPartyClient(threading.Thread):
    """Another program that trades, and asks for each order again until it knows.

    Some of its closes name no spread, and reduce those of the signal engine.
    """

    def __init__(self, place: Workspace, rng: random.Random) -> None:
        super().__init__()
        self.outcomes: dict[str, dict[str, object]] = {}
        self.orders: dict[str, dict[str, object]] = {}
        self.failure: Exception | None = None
        self._place = place
        self._rng = rng
        self._left: list[dict[str, object]] = []
        self._over = threading.Event()

    def run(self) -> None:
        """Trade until told to end, over as many connections as it takes."""
        try:
            while not self._over.is_set():
                with contextlib.suppress(pika.exceptions.AMQPError, OSError):
                    self._trade(OrderClient(self._place))
                self._over.wait(0.3)
        except Exception as error:  # noqa: BLE001 - it is raised where the thread is joined
            self.failure = error

    def end(self) -> None:
        """Stop trading; raises what went wrong."""
        self._over.set()
        if self.is_alive():
            self.join()
        if self.failure is not None:
            raise self.failure

    def _trade(self, client: OrderClient) -> None:
        while not self._over.is_set():
            if not self._left:
                self._left = list(random_orders(self._rng, 50))
            order = self._left[0]
            order_id = str(order["order_id"])
            client.send(order, order_id)
            asked = time.monotonic()
            while order_id not in client.replies and time.monotonic() < asked + 0.7:
                client.pump(0.05)
                if self._over.is_set():
                    return
            if order_id in client.replies:
                self.orders[order_id] = order
                self.outcomes[order_id] = client.answer(order_id)
                self._left.pop(0)
                self._over.wait(self._rng.uniform(0, 0.1))


class Soak:
    """Breaks things, one at a time, and counts what it broke."""

    def __init__(self, system: LiveSystem, servers: ServerPair, rng: random.Random) -> None:
        self.system = system
        self.servers = servers
        self.third_party = ThirdPartyClient(system.place, random.Random(rng.random()))
        self.rng = rng
        self.done: Counter[str] = Counter()
        self.slow_stops: list[str] = []
        self.faults: tuple[Callable[[], str], ...] = (
            self.kill,
            self.kill,
            self.stop,
            self.pause,
            self.second_of_a_kind,
            self.cut_connections,
            self.restart_broker,
            self.fill_broker_memory,
            self.delete_orders_queue,
            self.stop_database,
            self.lock_tables,
            self.reset_database_sessions,
            self.break_exchange,
            self.break_exchange,
            self.change_subscription,
        )

    def kill(self) -> str:
        """End a service as a crash would, and start it again."""
        name = self.rng.choice(SERVICES)
        self.system.services[name].kill()
        time.sleep(self.rng.uniform(0, 2))
        self.system.start(name, ready=False)
        return f"kill -9 {name}"

    def stop(self) -> str:
        """End a service as its user would, and start it again."""
        name = self.rng.choice(SERVICES)
        began = time.monotonic()
        status = self.system.services[name].stop(15)
        took = time.monotonic() - began
        if status != 0 or took > 5:
            self.slow_stops.append(f"{name}: exit status {status} after {took:.1f} s")
        self.system.start(name, ready=False)
        return f"stop {name}"

    def pause(self) -> str:
        """Let a service hang for a while."""
        name = self.rng.choice(SERVICES)
        service = self.system.services[name]
        service.pause()
        time.sleep(self.rng.uniform(0.5, LONGEST_FAULT_SECONDS))
        service.go_on()
        return f"hang {name}"

    def second_of_a_kind(self) -> str:
        """Start a second signal or trading engine by mistake, for a while."""
        name = self.rng.choice(("signal", "trading_engine"))
        second = self.system.place.start(name)
        time.sleep(self.rng.uniform(1, 4))
        second.kill()
        return f"second {name}"

    def cut_connections(self) -> str:
        """Close every connection from the broker's side."""
        cut(self.system.place, connections(self.system.place))
        return "cut connections"

    def restart_broker(self) -> str:
        """Stop the broker for a while."""
        self.servers.setup("stop", "broker")
        time.sleep(self.rng.uniform(0, LONGEST_FAULT_SECONDS))
        self.servers.setup("start", "broker")
        return "broker away"

    def stop_database(self) -> str:
        """Stop the database for a while, sometimes with an engine that dies meanwhile."""
        self.servers.setup("stop", "database")
        time.sleep(self.rng.uniform(0, LONGEST_FAULT_SECONDS))
        crash = self.rng.random() < 0.5
        if crash:
            self.system.services["trading_engine"].kill()
        self.servers.setup("start", "database")
        if crash:
            self.system.start("trading_engine", ready=False)
        return "database away, engine killed" if crash else "database away"

    def fill_broker_memory(self) -> str:
        """Have the broker think for a while that it is short of memory."""
        self.servers.setup("rabbitmqctl", "set_vm_memory_high_watermark", "0")
        time.sleep(self.rng.uniform(0, LONGEST_FAULT_SECONDS))
        self.servers.setup("rabbitmqctl", "set_vm_memory_high_watermark", "0.4")
        return "broker short of memory"

    def delete_orders_queue(self) -> str:
        """Delete the queue of the orders, with what is in it."""
        channel = self.system.place.channel()
        channel.queue_delete("orders")
        channel.connection.close()
        return "orders queue deleted"

    def lock_tables(self) -> str:
        """Lock both tables for a while."""
        with contextlib.closing(connect(self.system.place.environment, self.system.place.name)) as session:
            session.autocommit = False
            session.cursor().execute('LOCK TABLE bybit.orderbook, bybit."order" IN ACCESS EXCLUSIVE MODE')
            time.sleep(self.rng.uniform(0, LONGEST_FAULT_SECONDS))
            session.rollback()
        return "tables locked"

    def reset_database_sessions(self) -> str:
        """Close the database's sessions with the services."""
        self.system.place.query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name LIKE 'blackbird %%'"
        )
        return "database sessions reset"

    def break_exchange(self) -> str:
        """Switch one of the exchange's faults."""
        name, given = self.rng.choice(EXCHANGE_FAULTS)
        channel, symbol, _ = self.rng.choice(SUBSCRIPTIONS)
        narrowed = {} if name == "refuse_tcp" else {"channel": channel}
        if name not in {"refuse_tcp", "hang_handshake"}:
            narrowed["symbol"] = symbol
        self.system.exchange.fault(name, **narrowed, **given)
        return f"exchange: {name} {' '.join(map(str, given.values()))}".rstrip()

    def change_subscription(self) -> str:
        """Unsubscribe an instrument, and subscribe it again."""
        channel, symbol, matching_key = self.rng.choice(SUBSCRIPTIONS)
        instrument = {"channel": channel, "symbol": symbol}
        self.system.request("/unsubscribe", instrument)
        time.sleep(self.rng.uniform(0, 2))
        wait_for(
            lambda: (
                self.system.request("/subscribe", {**instrument, "matching_key": matching_key})[0]
                in {200, 202}
            ),
            "subscribed again",
            60,
        )
        return "subscription changed"

    def run(self, seconds: float) -> None:
        """Break one thing after the other for so many seconds."""
        self.third_party.start()
        began = time.monotonic()
        while (now := time.monotonic() - began) < seconds:
            what = self.rng.choice(self.faults)()
            self.done[what] += 1
            print(f"{now:6.0f} s  {what}", flush=True)
            time.sleep(self.rng.uniform(0.5, SECONDS_BETWEEN))
            self.system.collect_published()

    def settle(self) -> Accounts:
        """Let everything come back, stop the market, and check what is left; return the accounts."""
        for name, service in self.system.services.items():
            service.go_on()
            if service.process.poll() is not None:
                raise AssertionError(f"{name} ended by itself:\n{service.output[-2000:]}")
        self.system.exchange.post("/faults/clear")
        self.system.wait_until_it_works()
        self.third_party.end()
        self.system.exchange.post("/pause")
        wait_for(self.system.is_stored, "every published update stored", SETTLE_SECONDS)
        self.system.check_storage()
        client = OrderClient(self.system.place)
        wait_for(
            lambda: client.open_spreads() == Accounts(self.system.place).open_spreads,
            "every execution stored",
            SETTLE_SECONDS,
        )
        accounts = Accounts(self.system.place)
        place = self.system.place
        exposure = place.query('SELECT channel, symbol_name, -sum(flux) FROM bybit."order" GROUP BY 1, 2')
        assert {(channel, symbol): amount for channel, symbol, amount in exposure} == accounts.exposure
        assert place.query('SELECT sum(flux) FROM bybit."order"') == [(accounts.pnl,)]
        assert accounts.largest <= LIMIT, f"exposure was {accounts.largest}"
        assert len(accounts.orders) == len(set(accounts.orders)), "an order was executed twice"
        copies = place.query(
            "SELECT count(*) FROM (SELECT 1 FROM bybit.orderbook GROUP BY channel, topic, type, update_id,"
            " sequence_id, ts_orderbook, side, price HAVING count(*) > 1) c"
        )
        assert copies == [(0,)], f"{copies[0][0]} levels stored twice"
        for order_id in self.rng.sample(accounts.orders, min(20, len(accounts.orders))):
            # Known by its id alone: whatever else it says, it is answered again and trades nothing.
            assert client.ask(new_order(order_id=order_id)) == ACK
        self.check_third_party(client, accounts)
        assert self.system.executions() == len(accounts.orders)
        self.system.services["trading_engine"].kill()
        self.system.start("trading_engine")
        begun_with = state_at_start(self.system.services["trading_engine"])
        assert begun_with == (accounts.pnl, accounts.exposure), begun_with
        assert not self.slow_stops, self.slow_stops
        self.check_logs()
        return accounts

    def check_third_party(self, client: OrderClient, accounts: Accounts) -> None:
        """Fail unless its orders are executed as it knows, and are answered as before."""
        acked = {order_id for order_id, answer in self.third_party.outcomes.items() if answer == ACK}
        executed = set(accounts.orders)
        assert acked <= executed, f"{len(acked - executed)} orders ACKed and not executed"
        refused = self.third_party.outcomes.keys() - acked
        assert not refused & executed, f"{len(refused & executed)} orders refused and executed"
        again = client.settle(self.third_party.orders.values(), again=5, in_flight=100)
        assert again == self.third_party.outcomes, "an order got another answer than the first"

    def check_logs(self) -> None:
        """Fail where a service met an error that nobody had thought of."""
        logs = sorted(self.system.place.folder.glob("*.log"))
        astray = [log.name for log in logs if "Traceback" in log.read_text(errors="replace")]
        assert not astray, f"tracebacks in {astray}: {logs[0].parent}"


def check_pushes(system: LiveSystem, record: Path) -> int:
    """Fail unless each published update is a push of the exchange, unchanged; return how many it sent."""
    sent: dict[object, str] = {}
    with record.open() as lines:
        for line in lines:
            push = json.loads(line)
            sent[update_of({**push["message"], "channel": push["category"]})] = line
    for update, body in system.published.items():
        assert update in sent, f"published, but not by the exchange: {body[:300]!r}"
        message = json.loads(body)
        del message["channel"], message["matching_key"]
        assert message == json.loads(sent[update])["message"], f"changed on its way: {body[:300]!r}"
    return len(sent)


def main() -> None:
    """Run the soak; exit status 0 only when everything held."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", default="25", help="pushes a second of each instrument")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="blackbird-soak-") as folder:
        # The servers' own users have to get in.
        Path(folder).chmod(0o755)
        servers = ServerPair(Path(folder))
        try:
            servers.setup("start")
            record = Path(folder) / "sent.ndjson"
            market = ("--rate", options.rate, "--seed", str(options.seed), "--record", str(record))
            settings = {"MAX_BOOK_AGE_MS": "3000", "MAX_RISK_OPEN_POSITION": str(LIMIT)}
            with (
                ExchangeProcess(*market) as exchange,
                workspace(Path(folder), **settings, **servers.settings) as place,
            ):
                system = LiveSystem(place, exchange)
                system.start(*SERVICES)
                system.subscribe()
                system.wait_until_it_works()
                soak = Soak(system, servers, random.Random(options.seed))
                try:
                    soak.run(options.minutes * 60)
                    accounts = soak.settle()
                finally:
                    soak.third_party.end()
                exchange.stop()
                sent = check_pushes(system, record)
                print(
                    f"\nseed {options.seed}, {options.minutes:g} minutes, {sum(soak.done.values())} faults:"
                )
                for what, count in sorted(soak.done.items()):
                    print(f"  {count:4}  {what}")
                print(f"updates sent by the exchange {sent:>12,}")
                print(f"updates published and stored {len(system.published):>12,}")
                print(f"executions                   {len(accounts.orders):>12,}")
                print(f"orders of the third party     {len(soak.third_party.outcomes):>12,}")
                print(f"PnL                          {accounts.pnl:>12,f}")
                print(f"largest exposure             {accounts.largest:>12,f}")
                print("everything held")
        finally:
            servers.setup("stop")


if __name__ == "__main__":
    main()
