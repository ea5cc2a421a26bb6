"""The trading engine with real orders as a process, the local exchange as its account, and what both say."""

from __future__ import annotations

import json
import sqlite3
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from local_exchange.process import ExchangeProcess
from tests.support.bybit_account import KEY, SECRET, Trader
from tests.support.order_client import OrderClient
from tests.support.workspace import HERE, Service, Workspace, wait_for

Message = dict[str, Any]
Leg = tuple[str, str]
ZERO = Decimal(0)
COINS = ("BTC", "ETH", "T003", "T004", "T005")
MANY_COINS = (*COINS, *(f"T{number:03}" for number in range(6, 13)))


def exchange_arguments(coins: Sequence[str]) -> tuple[str, ...]:
    """Return the arguments of an exchange that takes as many orders as come.

    Its account has plenty of everything; each leg has one quiet book.
    """
    return (
        *("--rate", "0", "--instruments", str(len(coins)), "--ip-requests", "0", "--lookups-per-second", "0"),
        *("--orders-per-second", "linear=0", "--orders-per-second", "spot=0"),
        *(word for coin in ("USDT", "USDC") for word in ("--balance", f"{coin}=50000000")),
        *(word for coin in coins for word in ("--balance", f"{coin}=10000")),
    )


EXCHANGE = exchange_arguments(COINS)
MIDDLE = {"BTC": Decimal(64000), "ETH": Decimal(3200)}
OTHER_MIDDLE = Decimal(120)
PERP_PREMIUM = Decimal("0.002")
HALF_WIDTH = Decimal("0.0001")
DEEP = "9000000"
TRADED_AWAY = "traded away"


def spot(coin: str) -> Leg:
    return "spot", f"{coin}USDT"


def perp(coin: str) -> Leg:
    return "linear", f"{coin}PERP"


@dataclass
class Book:
    """Best prices of a leg."""

    bid: Decimal
    ask: Decimal


@dataclass
class Truth:
    """What the exchange has done for the orders of the engine."""

    fills: list[Message]
    orders: list[Message]
    positions: dict[str, Decimal]
    wallets: dict[str, Decimal]

    def filled_by_link(self) -> dict[str, set[str]]:
        """Return by link id which of the exchange's orders were filled."""
        found: dict[str, set[str]] = defaultdict(set)
        for fill in self.fills:
            found[fill["orderLinkId"]].add(fill["orderId"])
        return found


@dataclass
class Sums:
    """Sizes and cash by instrument."""

    size: dict[Leg, Decimal] = field(default_factory=lambda: defaultdict(Decimal))
    cash: dict[Leg, Decimal] = field(default_factory=lambda: defaultdict(Decimal))


class RealSystem:
    """One engine that sends real orders, in a workspace, to an exchange that trades these `coins`."""

    def __init__(
        self, place: Workspace, exchange: ExchangeProcess, coins: Sequence[str] = COINS, **settings: str
    ) -> None:
        self.place = place
        self.coins = coins
        self.exchange = exchange
        self.settings = {
            "REAL_ORDER_SENDING": "true",
            "API_KEY": KEY,
            "API_SECRET": SECRET,
            "BYBIT_REST_URL": exchange.rest_url,
            "BYBIT_WS_URL": exchange.url,
            "LINEAR_ORDERS_PER_SECOND": "1000",
            "SPOT_ORDERS_PER_SECOND": "1000",
            "PAIR_COOLDOWN_MS": "0",
            "MAX_RISK_OPEN_POSITION": "1000000000",
            **settings,
        }
        self.books: dict[Leg, Book] = {}
        self._start_wallets = self.truth().wallets
        self.client = OrderClient(place)
        self.engine: Service | None = None
        for coin in coins:
            self.set_books(coin)

    # --- engine ------------------------------------------------------------------------------

    def start(self, **settings: str) -> Service:
        """Start the engine, and wait until it answers."""
        self.engine = self.place.start_engine(**{**self.settings, **settings})
        return self.engine

    def start_crashing(self, point: str, **settings: str) -> Service:
        """Start an engine that kills itself at a point of its first trade; see crashing_engine.py."""
        script = HERE / "tests" / "support" / "crashing_engine.py"
        self.engine = self.place.start_script(
            script, "trading_engine", **{**self.settings, "CRASH_AT": point, **settings}
        )
        self.place.await_ready(self.engine)
        return self.engine

    @property
    def running(self) -> Service:
        assert self.engine is not None
        return self.engine

    def journal_synced_at(self) -> float:
        """Return when the journal was brought to the disk last: its log was moved into its file."""
        [path] = Path(self.place.environment["JOURNAL_PATH"]).glob("*.sqlite")
        return path.stat().st_mtime

    def recorded_link_ids(self) -> str:
        """Return the text of open trades, records and stored fills."""
        texts = []
        for path in sorted(Path(self.place.environment["JOURNAL_PATH"]).glob("*")):
            if path.suffix in {".lock", ".db-shm", ".db-wal"} or path.name.endswith(("-wal", "-shm")):
                continue
            with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
                rows = database.execute("SELECT body FROM open_trade UNION ALL SELECT body FROM record")
                texts += [bytes(body) for (body,) in rows]
            database.close()
        # The database last: a record leaves the journal after it was stored.
        stored = [link_id for (link_id,) in self.place.query("SELECT DISTINCT link_id FROM bybit.fill")]
        return "\n".join([*(text.decode() for text in texts), *stored])

    # --- market ------------------------------------------------------------------------------

    def set_books(self, coin: str, *, shift: Decimal = ZERO, depth: str = DEEP) -> None:
        """Set the books of a coin: the perpetual above spot; `shift` is a fraction of the price."""
        middle = MIDDLE.get(coin, OTHER_MIDDLE) * (1 + shift)
        for leg, center in ((spot(coin), middle), (perp(coin), middle * (1 + PERP_PREMIUM))):
            self.set_book(leg, center * (1 - HALF_WIDTH), center * (1 + HALF_WIDTH), depth)

    def set_book(self, leg: Leg, bid: Decimal, ask: Decimal, depth: str = DEEP) -> None:
        """Set the only level of each side of a book, on the tick."""
        tick = Decimal("0.1") if leg[1].startswith("BTC") else Decimal("0.01")
        book = Book((bid / tick).to_integral_value() * tick, (ask / tick).to_integral_value() * tick)
        if book.ask <= book.bid:
            book.ask = book.bid + tick
        self.exchange.post(
            "/book", channel=leg[0], symbol=leg[1], b=[[str(book.bid), depth]], a=[[str(book.ask), depth]]
        )
        self.books[leg] = book

    # --- orders ------------------------------------------------------------------------------

    def opening(self, coin: str = "BTC", size: str = "0.1", **changes: Any) -> Message:
        """Return an open at the books: long spot and short perpetual, unless told otherwise."""
        buy, sell = changes.pop("buy", None) or spot(coin), changes.pop("sell", None) or perp(coin)
        return self._order("Open Spread", buy, sell, size, uuid.uuid4().hex, changes)

    def closing(self, opened: Message, size: str | Decimal | None = None, **changes: Any) -> Message:
        """Return a close of what `opened` has opened, whole unless told otherwise."""
        buy, sell = tuple(opened["sell"]), tuple(opened["buy"])
        return self._order("Close Spread", buy, sell, size or opened["size"], opened["spread_id"], changes)

    def _order(
        self, action: str, buy: Leg, sell: Leg, size: str | Decimal, spread_id: str, changes: Message
    ) -> Message:
        now = time.time_ns() // 1_000_000
        return {
            "order_id": uuid.uuid4().hex,
            "action": action,
            "spread_id": spread_id,
            "buy": list(buy),
            "buy_price": self.books[buy].ask,
            "sell": list(sell),
            "sell_price": self.books[sell].bid,
            "size": Decimal(size),
            "ts_buy": now,
            "ts_sell": now,
            "expires_at": now + 2000,
            **changes,
        }

    def trade(self, order: Message, seconds: float = 30) -> Message:
        """Send an order and return its reply."""
        self.client.send(order, order["order_id"])
        self.client.wait(order["order_id"], seconds=seconds)
        return self.client.answer(order["order_id"])

    # --- the truth ---------------------------------------------------------------------------

    def truth(self, *, fills: int = 0, orders: int = 0) -> Truth:
        """Return what the exchange says, without its first so many fills and orders."""
        account = self.exchange.get("/account")
        ours = [fill for fill in self.exchange.get(f"/fills?after={fills}") if fill["orderLinkId"]]
        return Truth(
            [fill for fill in ours if fill["execType"] == "Trade"],
            self.exchange.get(f"/orders?after={orders}"),
            {one["symbol"]: Decimal(one["size"]) for one in account["positions"] if Decimal(one["size"])},
            {coin: Decimal(wallet["balance"]) for coin, wallet in account["wallets"].items()},
        )

    def is_quiet(self) -> bool:
        """Return whether no order waits at the exchange, and none of its fills for the database."""
        if self.exchange.get("/counters")["private"]["orders_waiting"]:
            return False
        stored = {exec_id for (exec_id,) in self.place.query("SELECT exec_id FROM bybit.fill")}
        return {fill["execId"] for fill in self.truth().fills} == stored

    def check(self, seconds: float = 30) -> Truth:
        """Wait for quiet, then compare exchange, database and engine; return the exchange's truth."""
        wait_for(self.is_quiet, "every fill stored", seconds)
        truth = self.truth()
        self._check_fills(truth)
        self._check_books(truth)
        self._check_account(truth)
        self._check_open_spreads()
        twice = {link: orders for link, orders in truth.filled_by_link().items() if len(orders) > 1}
        assert not twice, f"link ids filled twice: {twice}"
        return truth

    def _check_fills(self, truth: Truth) -> None:
        """Check that the fills of the database are those of the exchange."""
        rows = self.place.query(
            "SELECT exec_id, link_id, channel, symbol_name, side, price, size, fee, fee_coin FROM bybit.fill"
        )
        expected = {
            (
                fill["execId"],
                fill["orderLinkId"],
                *(fill["category"], fill["symbol"], fill["side"].lower()),
                *(Decimal(fill[name]) for name in ("execPrice", "execQty", "execFee")),
                fill["feeCurrency"],
            )
            for fill in truth.fills
        }
        assert set(rows) == expected
        assert len(rows) == len(expected)

    def booked(self) -> Sums:
        """Return what the rows of executions, unwinding and leftovers come to."""
        sums = Sums()
        for channel, symbol, side, size, flux in self.place.query(
            'SELECT channel, symbol_name, type, size, flux FROM bybit."order"'
        ):
            sums.size[channel, symbol] += size if side == "buy" else -size
            sums.cash[channel, symbol] += flux
        for channel, symbol, size, flux in self.place.query(
            "SELECT channel, symbol_name, size, flux FROM bybit.leftover"
            " WHERE resolution IS DISTINCT FROM %s",
            TRADED_AWAY,
        ):
            sums.size[channel, symbol] += size
            sums.cash[channel, symbol] += flux
        return sums

    def _check_books(self, truth: Truth) -> None:
        """Check that rows and leftovers are all of the fills and nothing else, in size and in cash."""
        booked, filled = self.booked(), Sums()
        for fill in truth.fills:
            leg = (fill["category"], fill["symbol"])
            size, value = Decimal(fill["execQty"]), Decimal(fill["execQty"]) * Decimal(fill["execPrice"])
            bought = fill["side"] == "Buy"
            filled.size[leg] += size if bought else -size
            filled.cash[leg] -= value if bought else -value
            if fill["feeCurrency"] == base_coin(fill["symbol"]):
                fee = Decimal(fill["execFee"])
                filled.size[leg] -= fee
                # A fee in base coin is booked as a fee in quote coin.
                filled.cash[leg] += fee * Decimal(fill["execPrice"])
        assert without_zeros(booked.size) == without_zeros(filled.size)
        assert without_zeros(booked.cash) == without_zeros(filled.cash)
        exposures = self.place.query("SELECT channel, symbol_name, held_size FROM bybit.position")
        assert without_zeros({(channel, symbol): size for channel, symbol, size in exposures}) == (
            without_zeros(filled.size)
        )

    def _check_account(self, truth: Truth) -> None:
        """Check that the account holds what is booked: perpetuals exactly, base coins to the last digit."""
        booked = self.booked().size
        linear = {symbol: size for (channel, symbol), size in booked.items() if channel == "linear" and size}
        assert linear == truth.positions
        for (channel, symbol), size in booked.items():
            if channel == "spot":
                coin = base_coin(symbol)
                assert truth.wallets[coin] - self._start_wallets[coin] == size, coin

    def _check_open_spreads(self) -> None:
        """Check that the engine has the spreads open that the rows have."""
        rows = self.place.query("SELECT spread_id, left_quantity FROM bybit.open_spread")
        listed = {one["spread_id"]: one["quantity"] for one in self.client.open_spreads()}
        assert dict(rows) == listed

    def check_answers(self, replies: dict[str, Message]) -> None:
        """Check that replies, by order id, say what the rows have of their orders."""
        legs: dict[str, dict[str, tuple[Any, ...]]] = defaultdict(dict)
        for order_id, side, *rest in self.place.query(
            'SELECT order_id, type, size, price, fee FROM bybit."order" WHERE order_id IS NOT NULL'
        ):
            legs[order_id][side] = tuple(rest)
        assert {order_id for order_id, reply in replies.items() if reply["status"] == "ACK"} == (
            set(legs) & set(replies)
        )
        for order_id, reply in replies.items():
            if reply["status"] == "ACK":
                buy, sell = legs[order_id]["buy"], legs[order_id]["sell"]
                assert reply == {
                    "status": "ACK",
                    "info": "order placed",
                    "size": buy[0],
                    "buy_price": buy[1],
                    "sell_price": sell[1],
                    "fee": buy[2] + sell[2],
                }
                assert buy[0] == sell[0]

    def open_leftovers(self) -> list[tuple[Any, ...]]:
        """Return the leftovers that wait to be traded away."""
        return self.place.query(
            "SELECT trade_id, channel, symbol_name, size, reason FROM bybit.leftover WHERE resolution IS NULL"
        )

    def flatten(self) -> None:
        """Close by hand what the account has open, for what comes after."""
        trader = Trader(self.exchange)
        for symbol, size in self.truth().positions.items():
            trader.trade(symbol=symbol, side="Sell" if size > 0 else "Buy", qty=str(abs(size)))


def base_coin(symbol: str) -> str:
    return symbol.removesuffix("USDT").removesuffix("PERP")


def without_zeros(sums: Iterable[Any]) -> dict[Leg, Decimal]:
    return {leg: amount for leg, amount in dict(sums).items() if amount}


def first_orders(truth: Truth) -> dict[str, dict[str, Message]]:
    """Return by trade the first orders of its legs as the exchange received them, by `b` and `s`."""
    found: dict[str, dict[str, Message]] = defaultdict(dict)
    for one in truth.orders:
        if one["link_id"].count("-") == 2:
            _, trade_id, leg = one["link_id"].split("-")
            if leg in {"b1", "s1"}:
                found[trade_id].setdefault(leg[0], one)
    return found


def trade_of(link_id: str) -> str:
    return link_id.split("-")[1]


def percentile(values: list[float], share: float) -> float:
    """Return the value that `share` of all are not above."""
    ranked = sorted(values)
    return ranked[min(int(len(ranked) * share), len(ranked) - 1)] if ranked else 0.0


def unhedged_ms(fills: list[Message], step: Decimal) -> float:
    """Return for how long a trade was bought or sold alone, by the exchange's clock."""
    imbalance, since, longest = ZERO, 0, 0
    for fill in sorted(fills, key=lambda one: one["time_ns"]):
        size = Decimal(fill["execQty"])
        if fill["feeCurrency"] == base_coin(fill["symbol"]):
            size -= Decimal(fill["execFee"])
        was_equal = abs(imbalance) < step
        imbalance += size if fill["side"] == "Buy" else -size
        if was_equal and abs(imbalance) >= step:
            since = fill["time_ns"]
        elif not was_equal and abs(imbalance) < step:
            longest = max(longest, fill["time_ns"] - since)
    assert abs(imbalance) < step, f"not equal in the end: {imbalance}"
    return longest / 1e6


def eventually(condition: Callable[[], object], what: str, seconds: float = 30) -> None:
    wait_for(condition, what, seconds)


def dumps(message: Message) -> str:
    return json.dumps(message, default=str)
