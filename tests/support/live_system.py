"""The whole system as processes: local exchange and four services, to be broken and checked."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.error
import urllib.request
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

from local_exchange.process import ExchangeProcess
from tests.support.book_feed import declare_feed
from tests.support.workspace import HERE, Service, Workspace, free_ports, wait_for

SERVICES = ("trading_engine", "data_storage", "signal", "market_data_collector")
SUBSCRIPTIONS = (("spot", "BTCUSDT", "a"), ("linear", "BTCPERP", "a"))

Update = tuple[Any, ...]


class ServerPair:
    """A broker and a database of one's own, on other ports, as setup.sh runs them."""

    def __init__(self, folder: Path) -> None:
        amqp, management, postgres = free_ports(3)
        self.settings = {
            "RABBITMQ_PORT": str(amqp),
            "RABBITMQ_MANAGEMENT_PORT": str(management),
            "RABBITMQ_DATA_PATH": str(folder / "rabbitmq"),
            "CONTAINER_NAME_RABBITMQ": f"rabbitMQ_{amqp}",
            "POSTGRES_PORT": str(postgres),
            "PGDATA_PATH": str(folder / "pgdata"),
            "CONTAINER_NAME_DB": f"timescaledb_{postgres}",
        }

    def setup(self, *arguments: str) -> None:
        """Run setup.sh for this pair."""
        done = subprocess.run(
            [str(HERE / "setup.sh"), *arguments],
            env={**os.environ, **self.settings},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


class LiveSystem:
    """Exchange, services and subscriptions in a workspace; a queue `watch` sees what `storage` sees."""

    def __init__(self, place: Workspace, exchange: ExchangeProcess, **settings: str) -> None:
        self.place = place
        self.exchange = exchange
        self._port = free_ports(1)[0]
        self._settings = {"COLLECTOR_PORT": str(self._port), "BYBIT_WS_URL": exchange.url, **settings}
        self.services: dict[str, Service] = {}
        channel = place.channel()
        declare_feed(channel, place.layout)
        channel.queue_declare("watch", durable=True)
        channel.queue_bind("watch", "data_feeder", "storage")
        channel.connection.close()
        self.published: dict[Update, bytes] = {}

    def start(self, *names: str, ready: bool = True) -> None:
        """Start services, and wait until they are at work."""
        for name in names:
            self.services[name] = self.place.start(f"{name}", **self._settings)
        if ready:
            self.place.await_ready(*(self.services[name] for name in names))

    def start_beside(self, name: str, **settings: str) -> Service:
        """Start one more of a service, with some settings of its own."""
        return self.place.start(name, **{**self._settings, **settings})

    def subscribe(self) -> None:
        for channel, symbol, matching_key in SUBSCRIPTIONS:
            self.request("/subscribe", {"channel": channel, "symbol": symbol, "matching_key": matching_key})

    def request(
        self, path: str, body: dict[str, str] | None = None, *, port: int | None = None
    ) -> tuple[int, Any]:
        """Ask the collector, or one on another port; return status and answer.

        (0, None) where it does not listen.
        """
        request = urllib.request.Request(
            f"http://127.0.0.1:{port or self._port}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)
        except OSError:
            return 0, None

    def executions(self) -> int:
        return int(self.place.query('SELECT count(*) FROM bybit."order"')[0][0]) // 2

    def updates(self) -> int:
        return int(self.place.query("SELECT count(*) FROM bybit.orderbook_update")[0][0])

    def wait_until_it_works(self) -> None:
        """Wait until updates and executions are stored that were not there before."""
        updates, executions = self.updates(), self.executions()
        wait_for(lambda: self.updates() > updates, "updates stored", 60)
        wait_for(lambda: self.executions() > executions, "executions stored", 90)

    def collect_published(self) -> None:
        """Take from `watch` what was published."""
        channel = self.place.channel()
        while True:
            _, _, body = channel.basic_get("watch", auto_ack=True)
            if body is None:
                break
            self.published[update_of(json.loads(body))] = body
        channel.connection.close()

    def snapshots(self) -> int:
        """Return how many different snapshots were published so far."""
        self.collect_published()
        return sum(kind == "snapshot" for _, _, kind, *_ in self.published)

    def is_stored(self) -> bool:
        """Return whether every published update is stored, with the market at rest."""
        self.collect_published()
        return self.updates() == len(self.published)

    def check_storage(self) -> None:
        """Fail unless the table holds each level of each published update once, and nothing else."""
        expected: Counter[Update] = Counter()
        for update, body in self.published.items():
            data = json.loads(body)["data"]
            for side, levels in (("bid", data["b"]), ("ask", data["a"])):
                for price, size in levels:
                    expected[(*update, side, Decimal(price), Decimal(size))] += 1
        stored = Counter(
            self.place.query(
                "SELECT channel, topic, type, update_id, sequence_id, ts_orderbook, side, price, size"
                " FROM bybit.orderbook"
            )
        )
        assert stored == expected, f"{len(stored - expected)} too many, {len(expected - stored)} missing"


def update_of(message: dict[str, Any]) -> Update:
    """Return what makes two messages copies of one update."""
    data = message["data"]
    return (message["channel"], message["topic"], message["type"], data["u"], data["seq"], message["cts"])
