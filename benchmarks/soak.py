"""The whole system under random faults for minutes, and then the proof from the database alone.

    uv run benchmarks/soak.py --minutes 20 --seed 1

Runs a broker and a database of its own, the local exchange and the four services, and breaks one of them
every few seconds. At the end the market rests, and these must hold:

- every update that the broker was given is stored once, level by level, and nothing else is
- two rows an execution; exposure is -sum(flux) and PnL sum(flux), as added up here row by row
- no exposure was ever beyond the limit
- the trading engine lists as open what the rows leave open, and answers a known order with its first answer
- every service that was asked to end did so within 5 s with exit status 0
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from exchange.process import ExchangeProcess
from tests.broker_faults import connections, cut
from tests.live_system import SERVICES, SUBSCRIPTIONS, LiveSystem, ServerPair
from tests.order_client import ACK, Accounts, OrderClient, new_order
from tests.workspace import wait_for, workspace

LIMIT = Decimal(1_000_000)
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


class Soak:
    """Breaks things, one at a time, and counts what it broke."""

    def __init__(self, system: LiveSystem, servers: ServerPair, rng: random.Random) -> None:
        self.system = system
        self.servers = servers
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
            self.stop_database,
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
        self.system.wait_until_it_works()
        self.system.exchange.post("/faults/clear")
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
        assert self.system.executions() == len(accounts.orders)
        assert not self.slow_stops, self.slow_stops
        return accounts


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
            with (
                ExchangeProcess("--rate", options.rate, "--seed", str(options.seed)) as exchange,
                workspace(Path(folder), MAX_BOOK_AGE_MS="3000", **servers.settings) as place,
            ):
                system = LiveSystem(place, exchange)
                system.start(*SERVICES)
                system.subscribe()
                system.wait_until_it_works()
                soak = Soak(system, servers, random.Random(options.seed))
                soak.run(options.minutes * 60)
                accounts = soak.settle()
                counters = exchange.get("/counters")
                print(
                    f"\nseed {options.seed}, {options.minutes:g} minutes, {sum(soak.done.values())} faults:"
                )
                for what, count in sorted(soak.done.items()):
                    print(f"  {count:4}  {what}")
                print(f"pushes of the exchange       {counters['sent']:>12,}")
                print(f"updates published and stored {len(system.published):>12,}")
                print(f"executions                   {len(accounts.orders):>12,}")
                print(f"PnL                          {accounts.pnl:>12,f}")
                print(f"largest exposure             {accounts.largest:>12,f}")
                print("everything held")
        finally:
            servers.setup("stop")


if __name__ == "__main__":
    main()
