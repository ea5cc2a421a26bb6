"""The status messages: what each service publishes of itself on the key `status`, as JSON.

Money, prices and sizes are decimals written as text, exact. Names that end in `_ms` are milliseconds since
1970, in `_seconds` durations. Counters begin at 0 with the process (`started_ms`) and only rise: rates are
for the reader to make. Fields may be added.
"""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum
from typing import Literal

import msgspec

from blackbird.market.instrument import Instrument
from blackbird.market.order_book import LevelView
from blackbird.status.histogram import Counts


class WhyNot(StrEnum):
    """Why a pair is not being traded, or that it is."""

    TRADING = "trading"  # an order of it was executed since the status before
    NO_CROSSING = "no crossing"  # the best direction is at or below its entry threshold
    BELOW_COSTS = "below costs"  # crosses, by less than fees and profit asked for
    RISK_LIMIT = "risk limit"  # refused; waits until any order is executed
    REFUSED = "refused"  # waits until one of its books changes
    ORDER_IN_FLIGHT = "order in flight"  # of its group
    NO_ANSWER = "no answer"  # the reply to the order of its group is late
    BOOK_TOO_OLD = "book too old"
    WAITS_FOR_SNAPSHOT = "waits for snapshot"
    BEHIND_EXCHANGE = "behind the exchange"
    STANDS_STILL = "stands still"
    PRICE_RATIO = "price ratio"
    BACKLOG = "backlog"
    EMPTY_SIDE = "empty side"  # a book has nothing left to trade on one side
    NOT_SUBSCRIBED = "not subscribed"  # a leg of open spreads has no book, or left its group
    SPREADS_UNKNOWN = "open spreads unknown"  # the trading engine has not said yet what is open
    COOLING_DOWN = "cooling down"  # real orders rest after a failure
    STOPPING = "stopping"


# --- the collector -------------------------------------------------------------------------------


class StreamStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """One instrument's stream."""

    channel: str
    symbol: str
    matching_key: str
    up: bool
    phase: str  # "live", "waiting for a snapshot", "connecting", "waiting to connect", "refused", "closed"
    silence_seconds: float | None = None  # since its last push; None before the first
    reason: str = ""  # of the last failure while it is down
    pushes: int = 0  # received of the exchange
    published: int = 0  # confirmed by the broker
    dropped: int = 0
    reconnects: int = 0
    resyncs: int = 0  # snapshots asked for after the first


class CollectorStatus(msgspec.Struct, frozen=True):
    """What the collector does."""

    streams: list[StreamStatus]
    publisher: str  # "connected", "blocked (memory or disk alarm)", "not connected"
    pending: int  # pushes that the broker has not confirmed
    buffer: int  # so many may wait before the oldest are dropped
    pushes: int  # of all streams, those that are gone included
    published: int
    dropped: int
    push_age: Counts  # from the exchange's `ts` to the socket, one observation a read
    confirm: Counts  # from the socket to the broker's confirmation, of a sample


# --- the signal engine ---------------------------------------------------------------------------


class BookStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """One instrument's book.

    `bids` and `asks` are the five best levels, best first: [price, size as reported, size left for us]. With
    more than 20 books they are sent in turn, 20 a message: where both are missing the ones sent before are
    the newest there are.
    """

    channel: str
    symbol: str
    state: Literal["in sync", "waits for snapshot", "too old"]
    received_ms: int  # when its last message was published, 0 before the first
    cts_ms: int = 0  # the matching engine's time of that message
    group: str | None = None
    bid: Decimal | None = None
    bid_size: Decimal | None = None  # left for us
    ask: Decimal | None = None
    ask_size: Decimal | None = None
    bids: list[LevelView] | None = None
    asks: list[LevelView] | None = None
    gaps: int = 0
    lag_ms: int = 0  # how much longer its last message took than the quickest of its stream


class Direction(msgspec.Struct, frozen=True, omit_defaults=True):
    """Buying one leg of a pair and selling the other."""

    long: Instrument
    short: Instrument
    spread: Decimal | None = None  # bid(short) - ask(long); None where a price is missing
    size: Decimal | None = None  # that could be executed at it
    threshold: Decimal | None = None  # the spread has to be above this to open: fees and MIN_PROFIT_BPS
    exit: Decimal | None = None  # ask(short) - bid(long): what closing costs; pays `entry - exit`
    open_spreads: int = 0
    quantity: Decimal = Decimal(0)  # open, base coin
    credit: Decimal = Decimal(0)  # sum of entry x quantity; PnL at mark: credit - exit x quantity
    widest: Decimal | None = None  # the largest entry that is open, the first to close


class PairStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """Two instruments of a group, and why they are not traded just now.

    `long` and `short` are those of the better direction when `why` began. Of a group with more than 5 members
    only the pairs with open spreads and the best one are listed.
    """

    group: str
    directions: tuple[Direction, Direction]
    why: WhyNot
    since_ms: int
    leg: Instrument | None = None  # the one at fault, where it is one
    info: str = ""  # of a refused order, the reason that was given


class OrderStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """An order that was answered."""

    number: int  # counts the answered orders of this process, from 1: a gap shows what was left out
    answered_ms: int
    action: str  # "Open Spread", "Close Spread"
    buy: Instrument
    sell: Instrument
    size: Decimal
    buy_price: Decimal
    sell_price: Decimal
    acked: bool
    info: str
    decided_seconds: float  # from the newest `cts` of its books to the decision; two clocks
    answered_seconds: float  # from the decision to the answer
    spread_id: str | None = None


class SignalStatus(msgspec.Struct, frozen=True):
    """What the signal engine does."""

    books: list[BookStatus]
    pairs: list[PairStatus]
    pairs_left_out: int
    orders: list[OrderStatus]  # the newest 30, oldest first
    orders_in_flight: int
    may_trade: bool  # the open spreads are known
    updates: dict[str, int]  # by outcome: applied, duplicate, stale, awaiting_snapshot, gap
    untraded: dict[str, int]  # orders withheld, by reason (WhyNot)
    answers: dict[str, dict[str, int]]  # action -> answer ("ACK", or the first words of the reason) -> count
    snapshots_requested: int
    waiting: int  # messages that wait for the reply to an order
    tick_age: Counts  # from the exchange's `ts` to being taken from the broker
    answer_time: Counts  # from an order's decision to its answer
    book_age: Counts  # of an order, how long ago its older book was heard of
    spreads_open: int


# --- the trading engine --------------------------------------------------------------------------


class LegStatus(msgspec.Struct, frozen=True):
    """What is held of an instrument; above zero long, below short."""

    channel: str
    symbol: str
    exposure: Decimal  # by RISK_MODEL cash: quote paid less received; by position see `risk_model`
    position: Decimal  # base coin


class PairTotals(msgspec.Struct, frozen=True):
    """What was traded of a pair (long, short) since the history began, as in the view `bybit.pnl`.

    Closed PnL is cash - credit - cash_without_spread.
    """

    long: Instrument
    short: Instrument
    cash: Decimal  # sum(flux)
    credit: Decimal  # of it, what open spreads were opened for
    cash_without_spread: Decimal  # of it, what closes beyond all that was open have brought
    quantity: Decimal  # open
    open_spreads: int
    turnover: Decimal  # value of both legs, opens and closes
    opened: int  # executions
    closed: int


class OpenSpreadStatus(msgspec.Struct, frozen=True):
    """An open spread."""

    spread_id: str
    long: Instrument
    short: Instrument
    entry: Decimal
    quantity: Decimal  # left
    opened_quantity: Decimal
    opened_ms: int


class TradeStatus(msgspec.Struct, frozen=True):
    """A real order whose legs are being traded."""

    trade_id: str
    action: str
    buy: Instrument
    sell: Instrument
    size: Decimal
    since_ms: int


class LeftoverStatus(msgspec.Struct, frozen=True):
    """What a trade has left of an instrument: `size` above zero bought, below zero sold."""

    trade_id: str
    channel: str
    symbol: str
    size: Decimal
    reason: str
    since_ms: int


class EngineStatus(msgspec.Struct, frozen=True):
    """What the trading engine does."""

    # waiting: no session, or another engine has the queue; standby: another engine has the lease
    state: Literal["active", "recovering", "waiting", "standby"]
    stores: bool  # DUMP_ORDER_TO_DB
    limit: Decimal  # MAX_RISK_OPEN_POSITION, quote coin, each leg
    risk_model: str
    legs: list[LegStatus]
    pnl: Decimal  # sum(flux) of all rows; closed PnL is pnl - credit - cash_without_spread
    credit: Decimal
    cash_without_spread: Decimal
    turnover: dict[str, Decimal]  # traded value by channel: fees = turnover x fee
    pairs: list[PairTotals]
    spreads_open: int
    open_spreads: list[OpenSpreadStatus]  # the oldest 50
    orders_known: int
    answers: dict[str, dict[str, int]]  # action "": what was no new order
    answer_time: Counts  # from the delivery to the reply
    journal_records: int  # decided, not in the database yet
    stored_lag_seconds: float  # age of the oldest of them
    dead_letters: int
    fees: Decimal = Decimal(0)  # that were charged, as far as known; a simulation charges none
    running_trades: list[TradeStatus] = []  # real orders that have no outcome yet
    leftovers: list[LeftoverStatus] = []  # positions that no spread accounts for


# --- data storage --------------------------------------------------------------------------------


class StorageStatus(msgspec.Struct, frozen=True):
    """What data storage does."""

    state: Literal["storing", "database unavailable", "discarding"]
    messages: int  # taken from the broker
    stored: int  # messages of committed batches
    rows: int  # price levels written
    waiting: int  # messages taken and not stored
    batch_write: Counts  # a batch, from its first attempt to its commit
    stored_cts_ms: int  # `cts` of the newest message stored, 0 before the first
    stored_ms: int  # when that was
    dead_letters: int


Body = CollectorStatus | SignalStatus | EngineStatus | StorageStatus


class Status(msgspec.Struct, frozen=True, omit_defaults=True):
    """A status message. Exactly one of the last four fields is there: that of `service`."""

    service: Literal["collector", "signal", "engine", "storage"]
    version: str
    mode: str  # "simulated", "demo", "testnet" or "mainnet"
    mode_text: str  # as in the log: "SIMULATED ORDERS", "REAL ORDERS to api-demo.bybit.com"
    host: str
    pid: int
    started_ms: int
    published_ms: int
    number: int  # counts the messages of this process, from 1
    interval_seconds: float  # until the next one
    broker: Literal["connected", "not connected"]  # of the service's working session
    cpu_seconds: float
    resident_bytes: int
    failures: dict[str, int]  # programming errors survived, by exception and place
    collector: CollectorStatus | None = None
    signal: SignalStatus | None = None
    engine: EngineStatus | None = None
    storage: StorageStatus | None = None
