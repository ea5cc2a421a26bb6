"""Why a pair is not traded, in a sentence with the figures that decide it."""

from __future__ import annotations

from collections.abc import Callable

from blackbird.market.instrument import Instrument
from blackbird.monitor.board import Board
from blackbird.monitor.sources import Rules
from blackbird.monitor.text import MINUS, duration, figure, places_of, trimmed
from blackbird.status.messages import Direction, PairStatus, WhyNot

# What needs a look, rather than patience.
ALARMING = frozenset(WhyNot) - {
    WhyNot.TRADING,
    WhyNot.NO_CROSSING,
    WhyNot.BELOW_COSTS,
    WhyNot.ORDER_IN_FLIGHT,
    WhyNot.REFUSED,
}


def better(pair: PairStatus) -> Direction:
    """Return the direction whose spread is higher over its threshold."""
    return max(pair.directions, key=_edge)


def _edge(direction: Direction) -> float:
    if direction.spread is None:
        return float("-inf")
    return float(direction.spread - (direction.threshold or 0))


def sentence(pair: PairStatus, board: Board, rules: Rules, now_ms: int) -> str:
    """Return what there is to say beyond the reason's name, perhaps nothing."""
    best = better(pair)
    spread, entry = figure(best.spread, signed=True), trimmed(best.threshold, places_of(best.spread))
    leg = "a leg" if pair.leg is None else _name(pair.leg)
    texts: dict[WhyNot, Callable[[], str]] = {
        WhyNot.TRADING: lambda: f"orders are executed; spread now {spread}",
        WhyNot.NO_CROSSING: lambda: f"best direction {spread}, entry above {entry}",
        WhyNot.BELOW_COSTS: lambda: f"best direction {spread} crosses, but fees and profit ask for {entry}",
        WhyNot.RISK_LIMIT: lambda: _risk_limit(pair, board, spread),
        WhyNot.REFUSED: lambda: "the order was refused; next attempt when one of the books changes",
        WhyNot.ORDER_IN_FLIGHT: lambda: "an order of the group waits for its answer",
        WhyNot.NO_ANSWER: lambda: "the trading engine does not answer the group's order",
        WhyNot.BOOK_TOO_OLD: lambda: _too_old(pair.leg, leg, board, rules, now_ms),
        WhyNot.WAITS_FOR_SNAPSHOT: lambda: f"{leg} has no complete book until a snapshot comes",
        WhyNot.BEHIND_EXCHANGE: lambda: _behind(pair.leg, leg, board),
        WhyNot.STANDS_STILL: lambda: f"{leg} does not move while the other leg does",
        WhyNot.PRICE_RATIO: lambda: "the prices are too far apart to be those of the same thing",
        WhyNot.BACKLOG: lambda: (
            "book messages are taken up too late; trading goes on when the group is level"
        ),
        WhyNot.EMPTY_SIDE: lambda: f"{leg} has nothing left to trade against",
        WhyNot.NOT_SUBSCRIBED: lambda: f"{leg} is not subscribed, or in another group",
        WhyNot.SPREADS_UNKNOWN: lambda: "the trading engine has not said yet what is open",
        WhyNot.COOLING_DOWN: lambda: "real orders rest after a failure",
        WhyNot.STOPPING: lambda: "the signal engine is being stopped",
    }
    return texts[pair.why]() if pair.why in texts else ""


def _name(instrument: Instrument) -> str:
    return f"{instrument.symbol} {instrument.channel}"


def _risk_limit(pair: PairStatus, board: Board, spread: str) -> str:
    status = board.statuses.get("engine")
    limit = status.engine.limit if status is not None and status.engine is not None else None
    size = better(pair).size
    return f"the next open of {figure(size)} would pass {figure(limit)}; {spread} is over the entry"


def _too_old(leg: Instrument | None, name: str, board: Board, rules: Rules, now_ms: int) -> str:
    book = board.books.get(leg) if leg is not None else None
    allowed = f"allowed {duration(rules.max_book_age_ms / 1000)}"
    if book is None or not book.received_ms:
        return f"{name} was not heard of, {allowed}"
    return f"{name} was last heard of {duration((now_ms - book.received_ms) / 1000)} ago, {allowed}"


def _behind(leg: Instrument | None, name: str, board: Board) -> str:
    book = board.books.get(leg) if leg is not None else None
    lag = "" if book is None else f" by {figure_ms(book.lag_ms)}"
    return f"{name} is behind the exchange{lag}"


def figure_ms(value: int) -> str:
    """Return milliseconds with their unit."""
    return f"{value:,} ms".replace("-", MINUS)
