"""Books, spread rules and accounting under random input, against naive models.

HYPOTHESIS_PROFILE=long makes at least 10,000 cases of each.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterable
from decimal import Decimal
from fractions import Fraction
from itertools import permutations
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackbird.engine import history_rows
from blackbird.market.book_message import decode_book
from blackbird.market.fields import InvalidMessage
from blackbird.market.instrument import Instrument
from blackbird.market.order_book import OrderBook, Outcome
from blackbird.trading.engine import TradingEngine
from blackbird.trading.matching_group import MatchingGroup
from blackbird.trading.orders import (
    CLOSE_SPREAD,
    OPEN_SPREAD,
    Order,
    Reply,
    decode_reply,
    decode_request,
    encode_order,
    encode_reply,
)
from blackbird.trading.pair_checks import Limits
from blackbird.trading.records import Execution, Record, Refusal, Unwind
from blackbird.trading.spreads import Pair
from tests.support.market import (
    BEYOND_RISK,
    DATED,
    PERP,
    PLACED,
    REFUSED,
    SPOT,
    Market,
    assert_same_book,
    book_message,
)
from tests.support.naive_market import ASKS, BIDS, NaiveBook, NaiveMarket, NaiveOrder

INSTRUMENTS = (SPOT, PERP, DATED)

# --- books ---------------------------------------------------------------------------------------

# Few prices and sizes, so that levels meet again; the sides overlap a little, so that books cross at times.
sizes = st.sampled_from(["0", "0.1", "0.10", "0.3", "1", "1e0", "2.5"])
bid_prices = st.sampled_from(["0.5", "1", "1.5", "2", "3", "3.0", "4"])
ask_prices = st.sampled_from(["4", "5", "6", "6.00", "6.5", "7", "8"])
bid_levels = st.lists(st.tuples(bid_prices, sizes), max_size=5)
ask_levels = st.lists(st.tuples(ask_prices, sizes), max_size=5)
rare = st.integers(0, 9).map(lambda number: number == 0)


class BookStep(NamedTuple):
    """A message relative to the last one, a copy of an earlier one, or a take of the best level."""

    what: str
    u_step: int
    restart: bool
    bids: list[tuple[str, str]]
    asks: list[tuple[str, str]]
    number: int


book_steps = st.builds(
    BookStep,
    st.sampled_from(["delta"] * 5 + ["snapshot"] * 2 + ["copy", "take", "take"]),
    st.sampled_from([1] * 8 + [0, 2, 7, -1, -4]),
    rare,
    bid_levels,
    ask_levels,
    st.integers(0, 40),
)


class Feed:
    """Turns steps into messages as an exchange and a careless broker might send them."""

    def __init__(self, instrument: Instrument = SPOT) -> None:
        self._instrument = instrument
        self._u = 100
        self._time = 1000
        self._seq = 5000
        self._sent: list[tuple[dict[str, Any], int]] = []
        self._snapshot: tuple[list[Any], list[Any]] = [], []

    def message(self, step: BookStep, now: int, key: str = "a") -> tuple[dict[str, Any], int]:
        """Return a message and when it was published; a copy may have been published anew."""
        if step.what == "copy" and self._sent:
            message, published = self._sent[step.number % len(self._sent)]
            return message, now if step.restart else published
        self._time += 10
        self._seq = step.number if step.restart else self._seq + 3
        self._u = 1 if step.restart else max(self._u + step.u_step, 0)
        bids, asks = step.bids, step.asks
        if step.what == "snapshot":
            if step.number % 3:  # much like the snapshot before
                bids, asks = self._snapshot[0][-9:] + bids, self._snapshot[1][-9:] + asks
            if step.number % 5:  # each price once, as the exchange sends them
                bids, asks = list(dict(bids).items()), list(dict(asks).items())
            self._snapshot = bids, asks
        message = {
            "topic": f"orderbook.50.{self._instrument.symbol}",
            "type": "snapshot" if step.what in {"snapshot", "copy"} else "delta",
            "ts": self._time,
            "data": {
                "s": self._instrument.symbol,
                "b": bids,
                "a": asks,
                "u": self._u,
                "seq": self._seq,
            },
            "cts": self._time,
            "channel": self._instrument.channel,
            "matching_key": key,
        }
        self._sent.append((message, now))
        return message, now


@pytest.mark.usefixtures("lazy_and_eager_sides")
@given(steps=st.lists(book_steps, max_size=30))
def test_book_is_as_a_naive_book_after_any_messages_and_takes(steps: list[BookStep]) -> None:
    feed = Feed()
    book, naive = OrderBook(), NaiveBook()
    stale = gaps = 0
    now = 0
    for step in steps:
        now += 10 * step.number
        if step.what == "take":
            side, name = ((book.bids, BIDS), (book.asks, ASKS))[step.number % 2]
            if side.best_price() is not None:
                best = side.best()
                size = best.remaining if step.number % 4 < 2 else best.remaining / 2
                naive.consume(name, best.price, size)
                side.consume(best, size)
        else:
            message, received_ms = feed.message(step, now)
            outcome = book.apply(decode_book(msgspec.json.encode(message)), received_ms)
            assert outcome.name.lower() == naive.apply(message, received_ms)
            stale += outcome is Outcome.STALE
            gaps += outcome is Outcome.GAP
        # Comparing reads snapshots, which may be left unread for long.
        assert_same_book(copy.deepcopy(book), naive)
    assert (book.stale, book.gaps) == (stale, gaps)


# --- spread rules --------------------------------------------------------------------------------

# Prices of all instruments from one range, each book with a gap of its own: they cross one another often
# and themselves seldom.
ANSWERS = {"": PLACED, "order not placed": REFUSED, "risk limit exceed": BEYOND_RISK}


class MarketStep(NamedTuple):
    """A book message of an instrument, a subscription map, or time passing."""

    what: str
    instrument: Instrument
    book: BookStep
    key: str
    middle: int
    named: frozenset[Instrument]
    milliseconds: int


near = st.lists(st.tuples(st.integers(1, 4), sizes), max_size=3)


@st.composite
def market_steps(draw: st.DrawFn) -> MarketStep:
    middle = draw(st.integers(10, 16))
    step = BookStep(
        draw(st.sampled_from(["delta", "delta", "delta", "snapshot", "snapshot", "copy"])),
        draw(st.sampled_from([1] * 12 + [0, 2])),
        draw(st.integers(0, 19).map(lambda number: number == 0)),
        [(str(middle - distance), size) for distance, size in draw(near)],
        [(str(middle + distance), size) for distance, size in draw(near)],
        draw(st.integers(0, 40)),
    )
    return MarketStep(
        draw(st.sampled_from(["book"] * 12 + ["map", "time"])),
        draw(st.sampled_from(INSTRUMENTS)),
        step,
        draw(st.sampled_from(["a"] * 9 + ["b"])),
        middle,
        draw(st.frozensets(st.sampled_from(INSTRUMENTS))),
        draw(st.sampled_from([0, 1, 500, 1000])),
    )


class Rehearsal:
    """The system's market and the naive one, on the same steps and the same answers."""

    MAX_AGE_MS = 1500

    def __init__(self, answers: list[str]) -> None:
        self.market = Market(limits=Limits(stale_after_ms=self.MAX_AGE_MS))
        self.market.answer = self._answer
        self.naive = NaiveMarket(self._naive_answer, stale_after_ms=self.MAX_AGE_MS)
        self.naive.now = self.market.now
        self.opened: Fraction = Fraction(0)
        self.closed: Fraction = Fraction(0)
        self.orders: list[NaiveOrder] = []
        self._answers = answers or [""]
        self._numbers: dict[str, int] = {}
        self._feeds = {instrument: Feed(instrument) for instrument in INSTRUMENTS}

    def step(self, step: MarketStep) -> None:
        if step.what == "map":
            self.market.signal.on_subscriptions(step.named)
            self.naive.on_map(step.named)
        elif step.what == "time":
            self.market.now += step.milliseconds
            self.naive.now += step.milliseconds
        else:
            feed = self._feeds[step.instrument]
            message, received_ms = feed.message(step.book, self.market.now, step.key)
            self.market.apply(decode_book(msgspec.json.encode(message)), received_ms)
            self.naive.on_message(message, received_ms)

    def _answer(self, order: Order) -> Reply:
        assert order.spread_id is not None
        number = self._numbers.get(order.spread_id, len(self._numbers))
        info = self._answers[len(self.orders) % len(self._answers)]
        self.orders.append(
            NaiveOrder(
                order.action, order.buy, order.buy_price, order.sell, order.sell_price, order.size, number
            )
        )
        if not info:
            if order.action == OPEN_SPREAD:
                self._numbers[order.spread_id] = number
                self.opened += Fraction(order.size)
            else:
                self.closed += Fraction(order.size)
        return ANSWERS[info]

    def _naive_answer(self, _: NaiveOrder) -> str:
        return self._answers[(len(self.naive.orders) - 1) % len(self._answers)]


answers = st.lists(st.sampled_from([""] * 3 + ["order not placed", "risk limit exceed"]), max_size=8)


@pytest.mark.usefixtures("lazy_and_eager_sides")
@given(steps=st.lists(market_steps(), max_size=40), answers=answers)
def test_orders_are_those_of_the_naive_rules_whatever_the_engine_answers(
    steps: list[MarketStep], answers: list[str]
) -> None:
    rehearsal = Rehearsal(answers)
    market, naive = rehearsal.market, rehearsal.naive
    for step in steps:
        rehearsal.step(step)
        assert rehearsal.orders == naive.orders
        assert market.open_spreads() == [(s.long, s.short, s.entry, s.remaining) for s in naive.spreads]
        assert set(market.signal.keeper.books) == set(naive.books)
        for leg, book in naive.books.items():
            assert_same_book(copy.deepcopy(market.signal.keeper.books[Instrument(*leg)]), book)
        groups = [(key, list(group)) for key, group in market.signal.keeper.groups.items()]
        assert groups == naive.groups


@given(st.lists(market_steps(), max_size=40))
def test_engine_that_acks_all_leaves_no_crossing_and_conserves_sizes(steps: list[MarketStep]) -> None:
    rehearsal = Rehearsal([""])
    market = rehearsal.market
    for step in steps:
        applied = market.signal.keeper.outcomes[Outcome.APPLIED]
        rehearsal.step(step)
        signal = market.signal
        for spread in signal.spreads:
            assert spread.quantity > 0
            assert spread.spread > 0
        for book in signal.keeper.books.values():
            for side in (book.bids, book.asks):
                best = side.best_reported()
                displayed = side.reported()
                extreme = max if side is book.bids else min
                price = extreme(displayed, default=None)
                assert best == (None if price is None else (price, displayed[price]))
                assert all(0 < size <= displayed[price] for price, size in side.available().items())
        left = sum((Fraction(spread.quantity) for spread in signal.spreads), Fraction(0))
        assert left == rehearsal.opened - rehearsal.closed
        if signal.keeper.outcomes[Outcome.APPLIED] == applied:
            continue
        members = next(
            (list(group) for group in signal.keeper.groups.values() if step.instrument in group), []
        )
        for long, short in permutations(members, 2):
            if step.instrument in {long, short} and tradable(market, long) and tradable(market, short):
                asks, bids = market.asks(long), market.bids(short)
                assert not asks or not bids or max(bids) <= min(asks)


def tradable(market: Market, instrument: Instrument) -> bool:
    book = market.signal.keeper.books[instrument]
    return book.in_sync and market.now - book.received_ms <= Rehearsal.MAX_AGE_MS


GROUP = [
    Instrument("spot", "BTCUSDT"),
    Instrument("linear", "BTCPERP"),
    Instrument("linear", "1000BTCUSDT"),
    Instrument("inverse", "BTCUSD"),
    Instrument("linear", "BTCUSDT"),
    Instrument("inverse", "BTCUSDH27"),
]
UNITS = [0, 0, 1, 2, 0, 2]  # of the sizes of GROUP

group_steps = st.tuples(
    st.integers(0, len(GROUP) - 1),
    st.sampled_from(["join", "join", "leave", "update", "update", "update", "update"]),
    st.none() | st.integers(1, 8),
    st.none() | st.integers(2, 9),
)


def book_of(bid: int | None, ask: int | None) -> OrderBook:
    book = OrderBook()
    bids = [] if bid is None else [(str(bid), "1")]
    asks = [] if ask is None else [(str(ask), "1")]
    book.apply(book_message("snapshot", 1, bids, asks), 0)
    return book


@given(st.lists(group_steps, max_size=40))
def test_group_finds_every_pair_of_one_unit_that_crosses_in_order_of_joining(
    steps: list[tuple[int, str, int | None, int | None]],
) -> None:
    group = MatchingGroup("a")
    quotes: dict[Instrument, tuple[float, float]] = {}
    for number, what, bid, ask in steps:
        instrument = GROUP[number]
        if what == "join" and instrument not in quotes:
            group.join(instrument)
            quotes[instrument] = (-math.inf, math.inf)
        elif what == "leave" and instrument in quotes:
            group.leave(instrument)
            del quotes[instrument]
        elif what == "update" and (bid is None or ask is None or bid < ask):
            if instrument not in quotes:
                group.join(instrument)
            quotes[instrument] = (bid or -math.inf, ask or math.inf)
            found = group.update(instrument, book_of(bid, ask))
            assert found == [pair for pair in all_crossing(quotes) if instrument in pair]
        assert group.all_crossing() == all_crossing(quotes)
        assert list(group) == list(quotes)


def all_crossing(quotes: dict[Instrument, tuple[float, float]]) -> list[Pair]:
    return [
        Pair(long, short)
        for long, short in permutations(quotes, 2)
        if quotes[short][0] > quotes[long][1] and UNITS[GROUP.index(long)] == UNITS[GROUP.index(short)]
    ]


# --- accounting ----------------------------------------------------------------------------------

amounts = st.one_of(
    st.decimals("0.00000001", "2000", places=8).filter(lambda amount: amount > 0),
    st.sampled_from(["0.1", "0.3", "100", "1E+2", "0.10"]).map(Decimal),
)


@st.composite
def orders(draw: st.DrawFn) -> Order:
    buy, sell = draw(st.permutations(INSTRUMENTS))[:2]
    return Order(
        action=draw(st.sampled_from((OPEN_SPREAD, CLOSE_SPREAD))),
        buy=buy,
        buy_price=draw(amounts),
        sell=sell,
        sell_price=draw(amounts),
        size=draw(st.one_of(amounts, st.sampled_from(["0.5", "0.50", "1"]).map(Decimal))),
        ts_buy=draw(st.integers(0, 2)),
        ts_sell=draw(st.integers(0, 2)),
        order_id=draw(st.sampled_from([None, None, "once", "twice"]) | st.uuids().map(str)),
        spread_id=draw(st.sampled_from([None, "s1", "s2", "s3"])),
        expires_at=draw(st.sampled_from([None, None, 999, 1000, 1001])),
    )


class Ledger:
    """What the accounts must be, in fractions and lists."""

    def __init__(self, limit: Decimal) -> None:
        self.limit = Fraction(limit)
        self.exposure: dict[Instrument, Fraction] = {}
        self.positions: dict[Instrument, Fraction] = {}
        self.pnl = Fraction(0)
        self.spreads: list[list[Any]] = []  # [id, long, short, left], oldest first
        self.seen: set[tuple[Any, ...]] = set()
        self.flux: dict[Instrument, list[Fraction]] = {}

    def expected(self, order: Order, now: int) -> str:
        if order.expires_at is not None and now > order.expires_at:
            return "expired"
        if order.order_id is None and self._natural_key(order) in self.seen:
            return "order already placed"
        of_id = [spread for spread in self.spreads if spread[0] == self._id(order)]
        if order.action == OPEN_SPREAD and of_id:
            return "invalid order: spread_id"
        if order.action == CLOSE_SPREAD and order.spread_id is not None:
            fits = of_id and of_id[0][1:3] == [order.sell, order.buy] and order.size <= of_id[0][3]
            if not fits:
                return "invalid order: spread_id"
            return "order placed"
        for leg, after in self._after(order).items():
            if abs(after) > self.limit and abs(after) > abs(self.exposure.get(leg, Fraction(0))):
                return "risk limit exceed"
        return "order placed"

    def place(self, order: Order) -> None:
        self.exposure.update(self._after(order))
        for leg, size in ((order.buy, Fraction(order.size)), (order.sell, -Fraction(order.size))):
            self.positions[leg] = self.positions.get(leg, Fraction(0)) + size
        bought = Fraction(order.buy_price) * Fraction(order.size)
        sold = Fraction(order.sell_price) * Fraction(order.size)
        self.pnl += sold - bought
        self.flux.setdefault(order.buy, []).append(-bought)
        self.flux.setdefault(order.sell, []).append(sold)
        self.seen.add(self._natural_key(order))
        if order.action == OPEN_SPREAD:
            self.spreads.append([self._id(order), order.buy, order.sell, order.size])
            return
        left = order.size
        for spread in list(self.spreads):
            mine = spread[0] == order.spread_id if order.spread_id else spread[1:3] == [order.sell, order.buy]
            if mine and left > 0:
                taken = min(left, spread[3])
                spread[3] -= taken
                left -= taken
        self.spreads = [spread for spread in self.spreads if spread[3]]

    def _id(self, order: Order) -> Any:
        return order.spread_id or order.order_id or object()

    def _after(self, order: Order) -> dict[Instrument, Fraction]:
        size = Fraction(order.size)
        return {
            order.buy: self.exposure.get(order.buy, Fraction(0)) + Fraction(order.buy_price) * size,
            order.sell: self.exposure.get(order.sell, Fraction(0)) - Fraction(order.sell_price) * size,
        }

    def _natural_key(self, order: Order) -> tuple[Any, ...]:
        return (
            order.buy,
            order.sell,
            order.buy_price,
            order.sell_price,
            order.size,
            order.ts_buy,
            order.ts_sell,
        )


NOW = 1000


def new_engine(limit: Decimal) -> TradingEngine:
    return TradingEngine(limit=limit, unique_order=True, clock=lambda: NOW)


def account(engine: TradingEngine, ledger: Ledger, given_orders: Iterable[Order]) -> list[Record]:
    """Bring orders as the service does, comparing each answer with the ledger's; return the records."""
    records: list[Record] = []
    for order in given_orders:
        first = engine.first_answer(order.order_id)
        if first is not None:
            continue
        expected = ledger.expected(order, NOW)
        record = engine.execute(order)
        records.append(record)
        reply = engine.answer_of(record)
        assert reply.info.startswith(expected)
        assert reply.acked == (expected == "order placed")
        assert engine.first_answer(order.order_id) == (reply if order.order_id else None)
        if reply.acked:
            ledger.place(order)
    return records


def state(engine: TradingEngine) -> dict[str, Any]:
    return {
        "risks": engine.risks,
        "pnl": engine.pnl,
        "orders": engine.orders,
        "spreads": engine.spreads.listed(),
    }


limits = st.sampled_from([Decimal(500), Decimal(100_000), Decimal("12345.678")])


@given(st.lists(orders(), max_size=25), limits)
def test_accounts_are_exact_sums_and_only_closes_of_known_spreads_pass_the_limit(
    given_orders: list[Order], limit: Decimal
) -> None:
    engine, ledger = new_engine(limit), Ledger(limit)
    before: dict[Instrument, Decimal] = {}
    for order in given_orders:
        account(engine, ledger, [order])
        assert engine.risks == ledger.exposure
        assert engine.positions == ledger.positions
        assert engine.risks == {leg: -sum(flux) for leg, flux in ledger.flux.items()}
        assert engine.pnl == ledger.pnl
        assert [[s.spread_id, s.long, s.short, s.quantity] for s in engine.spreads.listed()] == [
            spread if isinstance(spread[0], str) else [s.spread_id, *spread[1:]]
            for s, spread in zip(engine.spreads.listed(), ledger.spreads, strict=True)
        ]
        if order.action == OPEN_SPREAD or order.spread_id is None:
            for leg, exposure in engine.risks.items():
                assert abs(exposure) <= max(limit, abs(before.get(leg, Decimal(0))))
        before = dict(engine.risks)


@given(st.lists(orders(), max_size=25), limits, st.integers(0, 25))
def test_recovered_engine_is_the_engine_that_died_and_goes_on_like_it(
    given_orders: list[Order], limit: Decimal, died_after: int
) -> None:
    engine = new_engine(limit)
    records = account(engine, Ledger(limit), given_orders[:died_after])
    again = new_engine(limit)
    again.recover(records)
    assert state(again) == state(engine)
    for order in given_orders[died_after:]:
        if engine.first_answer(order.order_id) is None:
            # An id that the engine makes up is never the same.
            named = msgspec.structs.replace(order, spread_id=order.spread_id or "given")
            assert again.execute(named) == engine.execute(named)
    assert state(again) == state(engine)


@given(st.lists(orders(), max_size=25), limits)
def test_records_come_back_from_rows_and_journal_as_they_went_in(
    given_orders: list[Order], limit: Decimal
) -> None:
    records = account(new_engine(limit), Ledger(limit), given_orders)
    executions = [record for record in records if isinstance(record, Execution)]
    rows = [row for execution in executions for row in history_rows.order_rows(execution)]
    first = new_engine(limit)
    first.recover(records)
    stored: list[Execution | Unwind | Refusal] = list(history_rows.executions(iter(rows)))
    stored += [record for record in records if isinstance(record, Refusal)]
    stored.sort(key=lambda record: record.execution_id)
    second = new_engine(limit)
    second.recover(stored)
    assert state(second) == state(first)
    encoded = [msgspec.json.encode(record) for record in records]
    assert [msgspec.json.decode(body, type=Record) for body in encoded] == records


# --- numbers and garbage on the wire -------------------------------------------------------------


@given(orders())
def test_order_comes_back_from_its_json_exactly(order: Order) -> None:
    assert decode_request(encode_order(order)) == order


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
VALID_ORDER: dict[str, Any] = {
    "action": "Open Spread",
    "buy": ["linear", "BTCPERP"],
    "buy_price": 61800.3,
    "sell": ["spot", "BTCUSDT"],
    "sell_price": 61837.63,
    "size": 0.25,
    "ts_buy": 1723161256298,
    "ts_sell": 1723161256208,
}


@given(st.sampled_from([*VALID_ORDER, "order_id", "spread_id", "expires_at"]), json_values)
def test_order_with_a_strange_field_is_refused_by_its_name_or_taken_as_it_is(field: str, value: Any) -> None:
    body = json.dumps({**VALID_ORDER, field: value}).encode()
    try:
        order = decode_request(body)
    except InvalidMessage as error:
        assert str(error).startswith((f"{field}: ", "sell: "))  # noqa: PT017 - either outcome is one
    else:
        assert isinstance(order, Order)
        assert decode_request(encode_order(order)) == order


@given(st.binary(max_size=200) | json_values.map(msgspec.json.encode))
def test_any_bytes_are_decoded_or_refused_and_nothing_else(body: bytes) -> None:
    for decode in (decode_book, decode_request, decode_reply):
        try:
            decode(body)
        except InvalidMessage as error:
            encode_reply(Reply("NOT ACK", f"invalid order: {error}"))
