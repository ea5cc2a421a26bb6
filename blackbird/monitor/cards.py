"""What each card of the page shows, formatted: the contexts of the templates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from blackbird.broker.topology import ORDERS, SIGNAL, STORAGE, dead_letter_queue
from blackbird.market.decimals import ZERO
from blackbird.market.instrument import Instrument
from blackbird.market.order_book import LevelView
from blackbird.monitor.board import SERVICES
from blackbird.monitor.reasons import ALARMING, better, sentence
from blackbird.monitor.sources import Sources, base_coin, basis_points
from blackbird.monitor.text import (
    NOTHING,
    clock,
    count,
    duration,
    figure,
    milliseconds,
    percent,
    places_of,
    size,
    trimmed,
)
from blackbird.status.messages import (
    Direction,
    EngineStatus,
    OpenSpreadStatus,
    OrderStatus,
    PairStatus,
    SignalStatus,
    Status,
    WhyNot,
)
from blackbird.trading.orders import ACK, OPEN_SPREAD

LEVELS = 5
OPEN_SPREADS = 9
ORDERS_SHOWN = 15
Context = dict[str, Any]

# What the refusals' texts are called where there is little room.
SHORT_ANSWERS = {"risk limit exceed": "risk limit", "order already placed": "placed already"}
_QUEUES = {"collector": None, "signal": SIGNAL, "engine": ORDERS, "storage": STORAGE}
_LATENCIES = {
    "collector": ("confirm", "received to confirmed by the broker"),
    "signal": ("tick_age", "exchange to signal engine"),
    "engine": ("answer_time", "order delivered to answered"),
    "storage": ("batch_write", "batch to commit"),
}


def _signal(sources: Sources) -> SignalStatus | None:
    status = sources.board.statuses.get("signal")
    return None if status is None else status.signal


def _engine(sources: Sources) -> EngineStatus | None:
    status = sources.board.statuses.get("engine")
    return None if status is None else status.engine


def tone(value: Decimal | None) -> str:
    """Return the class of a gain or a loss."""
    return "up" if value and value > 0 else "down" if value and value < 0 else ""


def name_of(instrument: Instrument) -> str:
    """Return an instrument as the page names it."""
    return f"{instrument.symbol} {instrument.channel}"


def pair_name(long: Instrument, short: Instrument) -> str:
    """Return a pair as short / long, with the channels where the symbols alone would be the same."""
    if long.symbol == short.symbol:
        return f"{name_of(short)} / {name_of(long)}"
    return f"{short.symbol} / {long.symbol}"


def pair_key(pair: PairStatus) -> str:
    """Return what the page's address calls a pair; it does not depend on the direction."""
    return ",".join(sorted(str(leg) for leg in (pair.directions[0].long, pair.directions[0].short)))


# --- services ------------------------------------------------------------------------------------


def services(sources: Sources) -> Context:
    """Return the health of each service, and of broker and database as far as the monitor sees them."""
    return {"services": [{"name": name, "state": _state(sources, name)} for name in SERVICES]}


def _state(sources: Sources, service: str) -> str:
    status = sources.board.statuses.get(service)
    if status is None:
        return "wait"
    trouble = status.broker != "connected" or bool(status.failures)
    if status.collector is not None:
        trouble |= status.collector.publisher != "connected" or not all(
            s.up for s in status.collector.streams
        )
    if status.signal is not None:
        trouble |= not status.signal.may_trade
    if status.engine is not None:
        trouble |= status.engine.state != "active"
    if status.storage is not None:
        trouble |= status.storage.state != "storing"
    return "wait" if trouble else ""


def service_times(sources: Sources) -> dict[str, int]:
    """Return when each service, the broker and the database were last heard (milliseconds)."""
    times = {name: sources.board.published_ms(name) for name in SERVICES}
    times["broker"] = sources.queues.seen_ms
    times["database"] = 0 if sources.facts is None else sources.facts.read_ms
    return times


def troubles(sources: Sources, now_ms: int) -> list[str]:
    """Return in words what is not as it should be, for the head of "Why is it not trading?"."""
    found = []
    for name, at in service_times(sources).items():
        if now_ms - at > sources.stale_seconds * 1000:
            when = f"not heard for {duration((now_ms - at) / 1000)}" if at else "not heard yet"
            found.append(f"{name}: {when}")
    for name, status in sources.board.statuses.items():
        found += [f"{name}: {what}" for what in _complaints(status)]
    return found


def _complaints(status: Status) -> list[str]:
    found = []
    if status.broker != "connected":
        found.append("no connection to the broker")
    if status.collector is not None:
        if status.collector.publisher != "connected":
            found.append(f"broker {status.collector.publisher}")
        down = [stream for stream in status.collector.streams if not stream.up]
        found += [f"{s.symbol} {s.channel} {s.phase}{f' ({s.reason})' if s.reason else ''}" for s in down[:5]]
        if len(down) > 5:
            found.append(f"{len(down) - 5} more streams are down")
    if status.engine is not None and status.engine.state != "active":
        found.append(status.engine.state)
    if status.storage is not None and status.storage.state != "storing":
        found.append(status.storage.state)
    found += [f"survived {times} x {what}" for what, times in list(status.failures.items())[:3]]
    return found


# --- hedged? -------------------------------------------------------------------------------------


def hedged(sources: Sources, pair: PairStatus | None) -> Context:
    """Return the positions of the pair's group, their sum, and the largest exposure against the limit."""
    engine = _engine(sources)
    group = None if pair is None else pair.group
    books = sources.board.books
    members = [leg for leg, book in books.items() if book.group == group]
    legs = [] if engine is None else [Instrument(leg.channel, leg.symbol) for leg in engine.legs]
    of_group = legs if pair is None else [leg for leg in legs if leg in members]
    held = {} if engine is None else dict(zip(legs, engine.legs, strict=True))
    rows = [
        {
            "symbol": leg.symbol,
            "channel": leg.channel,
            "position": figure(held[leg].position, signed=True),
            "exposure": figure(held[leg].exposure, 2, signed=True),
        }
        for leg in of_group[:LEVELS]
    ]
    net = sum((held[leg].position for leg in of_group), ZERO)
    exposure = max((abs(held[leg].exposure) for leg in of_group), default=ZERO)
    limit = ZERO if engine is None else engine.limit
    used = percent(exposure, limit)
    return {
        "known": engine is not None,
        "group": group,
        "net": figure(net, signed=True),
        "coin": base_coin(of_group or members),
        "is_hedged": not net,
        "legs": rows,
        "more": len(of_group) - len(rows),
        "exposure": figure(exposure, 2),
        "limit": figure(limit),
        "used": used,
        "width": min(used, Decimal(100)),
        "is_full": used >= 90,
    }


# --- spread now ----------------------------------------------------------------------------------


def spread_now(sources: Sources, pair: PairStatus | None) -> Context:
    """Return both directions of the pair, the one that is mostly better first."""
    if pair is None:
        return {"directions": []}
    places = places_of(*(direction.spread for direction in pair.directions))
    return {
        "directions": [
            _direction(sources, direction, letter, places)
            for letter, direction in zip("ab", ordered(sources, pair), strict=True)
        ],
        "rule": _closing_rule(sources),
        "fees": _fees(sources, pair),
    }


def ordered(sources: Sources, pair: PairStatus) -> Sequence[Direction]:
    """Return the pair's directions: the one with more open first, else the one that is mostly better."""
    one, other = pair.directions
    if one.quantity != other.quantity:
        return (one, other) if one.quantity > other.quantity else (other, one)
    main = sources.history.main_direction(one.long, one.short)
    return (one, other) if (one.long, one.short) == main else (other, one)


def _direction(sources: Sources, direction: Direction, letter: str, places: int) -> Context:
    long, short = direction.long, direction.short
    book = sources.board.books.get(long)
    ask = None if book is None else book.ask
    spread, entry = direction.spread, direction.threshold
    edge = None if spread is None or entry is None else spread - entry
    return {
        "letter": letter,
        "title": _direction_title(long, short),
        "formula": f"bid {short.symbol} − ask {long.symbol}",
        "spread": figure(spread, places, signed=True),
        "bp": figure(basis_points(spread, ask) if spread is not None and ask else None, 2, signed=True),
        "after": trimmed(edge, places, signed=True),
        "size": figure(direction.size),
        "entry": trimmed(entry, places),
        "over": edge is not None and edge > 0,
        "open": direction.open_spreads,
    }


def _direction_title(long: Instrument, short: Instrument) -> str:
    if long.channel != short.channel:
        return f"sell {short.channel}, buy {long.channel}"
    return f"sell {short.symbol}, buy {long.symbol}"


def _closing_rule(sources: Sources) -> str:
    if sources.rules.close_rule == "signed":
        return "closes once it earns more than it costs"
    return "closes once the cost to close is under the entry"


def _fees(sources: Sources, pair: PairStatus) -> str:
    fees = [
        sources.rules.taker_fees.get(leg.channel, ZERO)
        for leg in (pair.directions[0].long, pair.directions[0].short)
    ]
    if not any(fees):
        return "no fees set"
    shown = [figure(fee * 10_000) for fee in fees]
    each = shown[0] if shown[0] == shown[1] else " and ".join(shown)
    return f"fees {each} bp a leg, {figure(2 * sum(fees, ZERO) * 10_000)} a round trip"


# --- PnL -----------------------------------------------------------------------------------------


def pnl(sources: Sources) -> Context:
    """Return the PnL of all groups, split."""
    engine = _engine(sources)
    found = sources.pnl()
    if engine is None or found is None:
        return {"known": False}
    gain = found.closed + (found.marked or ZERO)
    breaks_even = None
    if found.turnover and gain > 0:
        breaks_even = basis_points(gain, found.turnover)
    without = None if found.marked is None else gain
    return {
        "known": True,
        "total": figure(found.total, 2, signed=True),
        "closed": figure(found.closed, 2, signed=True),
        "marked": figure(found.marked, 2, signed=True),
        "fees": figure(-found.fees, 2),
        "fall": figure(Decimal(str(sources.history.deepest_fall())), 2),
        "tones": {name: tone(getattr(found, name)) for name in ("total", "closed", "marked")},
        "exact": {
            name: "" if (value := getattr(found, name)) is None else f"{value:f}"
            for name in ("total", "closed", "marked", "fees")
        },
        "opened": count(sum(each.opened for each in engine.pairs)),
        "closes": count(sum(each.closed for each in engine.pairs)),
        "breaks_even": None if breaks_even is None else figure(breaks_even, 3),
        "turnover": figure(found.turnover, 0),
        "without": figure(without, 2, signed=True),
        "has_fees": bool(found.fees),
        "fees_are": "fees charged" if found.fees_charged else "fees by rates",
        "fees_meaning": "of the fills, as far as known"
        if found.fees_charged
        else "the settings' rates x turnover",
        "unpriced": found.marked is None,
        "without_spread": figure(engine.cash_without_spread, 2, signed=True)
        if engine.cash_without_spread
        else "",
    }


# --- why -----------------------------------------------------------------------------------------


def why_row(sources: Sources, pair: PairStatus, key: str, now_ms: int) -> Context:
    """Return one pair's line."""
    first = pair.directions[0]
    return {
        "key": key,
        "group": pair.group,
        "pair": pair_name(first.long, first.short),
        "reason": str(pair.why),
        "is_alarming": pair.why in ALARMING,
        "is_good": pair.why == "trading",
        "sentence": sentence(pair, sources.board, sources.rules, now_ms),
        "since": pair.since_ms / 1000,
        "spread": figure(better(pair).spread, signed=True),
    }


def heard_ms(sources: Sources, *legs: Instrument) -> int:
    """Return the time of the oldest of what figures of these legs' books are made of."""
    board = sources.board
    times = [board.published_ms("signal")]
    times += [board.books[leg].received_ms if leg in board.books else 0 for leg in legs]
    return min(times)


def row_heard_ms(sources: Sources, pair: PairStatus) -> int:
    """Return the time of what a pair's reason is about: that of its old book, where it is one."""
    if pair.why is WhyNot.BOOK_TOO_OLD and pair.leg is not None:
        return heard_ms(sources, pair.leg)
    return min(sources.board.published_ms("signal"), sources.board.published_ms("collector"))


# --- open spreads --------------------------------------------------------------------------------


def open_spreads(sources: Sources) -> Context:
    """Return the oldest open spreads, and their sums."""
    engine = _engine(sources)
    if engine is None:
        return {"rows": [], "open": 0, "more": 0}
    coins = {leg for each in engine.pairs if each.quantity for leg in (each.long, each.short)}
    quantity = sum((each.quantity for each in engine.pairs), ZERO)
    found = sources.pnl()
    marked = None if found is None else found.marked
    coin = base_coin(list(coins))
    return {
        "rows": [_open_row(sources, spread) for spread in engine.open_spreads[:OPEN_SPREADS]],
        "open": engine.spreads_open,
        "more": engine.spreads_open - min(len(engine.open_spreads), OPEN_SPREADS),
        "quantity": figure(quantity) if coin or not coins else NOTHING,
        "coin": coin,
        "marked": figure(marked, 2, signed=True),
        "tone": tone(marked),
    }


def _open_row(sources: Sources, spread: OpenSpreadStatus) -> Context:
    exit_price = sources.board.exit_price(spread.long, spread.short)
    marked = None if exit_price is None else (spread.entry - exit_price) * spread.quantity
    return {
        "id": f"#{spread.spread_id[:6]}",
        "full_id": spread.spread_id,
        "since": spread.opened_ms / 1000,
        "pair": pair_name(spread.long, spread.short),
        "opened": figure(spread.opened_quantity),
        "left": figure(spread.quantity),
        "entry": figure(spread.entry),
        "exit": figure(exit_price),
        "to_close": trimmed(
            _to_close(sources, spread, exit_price), places_of(exit_price, spread.entry), signed=True
        ),
        "marked": figure(marked, 2, signed=True),
        "tone": tone(marked),
    }


def _to_close(sources: Sources, spread: OpenSpreadStatus, exit_price: Decimal | None) -> Decimal | None:
    """Return by how much the cost to close has to fall until the rule closes; below zero it does."""
    if exit_price is None:
        return None
    rules = sources.rules
    if rules.close_rule != "signed":
        return abs(exit_price) - spread.entry
    long, short = sources.board.books.get(spread.long), sources.board.books.get(spread.short)
    if long is None or short is None or long.bid is None or short.ask is None:
        return None
    costs = rules.costs(spread.long, spread.short, long.bid, short.ask)
    return exit_price - spread.entry + costs + rules.min_profit_bps / 10_000 * long.bid


# --- books ---------------------------------------------------------------------------------------


def books(sources: Sources, pair: PairStatus | None) -> Context:
    """Return the best levels of the pair's two books, the short leg's first."""
    if pair is None:
        return {"books": []}
    direction = ordered(sources, pair)[0]
    return {"books": [_book(sources, leg) for leg in (direction.short, direction.long)]}


def _book(sources: Sources, leg: Instrument) -> Context:
    book = sources.board.books.get(leg)
    ladder = sources.board.ladders.get(leg)
    sides: list[list[Context | None]] = []
    both: Sequence[Sequence[LevelView]] = ((), ()) if ladder is None else (ladder.bids, ladder.asks)
    places = places_of(*(level[0] for levels in both for level in levels[:LEVELS]))
    for levels in both:
        largest = max((level[1] for level in levels), default=ZERO)
        shown: list[Context | None] = [
            _level(LevelView(*level), largest, places) for level in levels[:LEVELS]
        ]
        sides.append(shown + [None] * (LEVELS - len(shown)))
    return {
        "name": name_of(leg),
        "state": "no book" if book is None else book.state,
        "is_good": book is not None and book.state == "in sync",
        "lag": "" if book is None or book.lag_ms < 100 else f"{book.lag_ms:,} ms behind",
        "rows": list(zip(*sides, strict=True)),
        "gaps": 0 if book is None else book.gaps,
    }


def _level(level: LevelView, largest: Decimal, places: int) -> Context:
    return {
        "price": figure(level.price, places),
        "size": figure(level.size),
        "left": figure(level.remaining),
        "taken": level.remaining < level.size,
        "width": percent(level.size, largest),
    }


# --- orders --------------------------------------------------------------------------------------


def last_orders(sources: Sources) -> Context:
    """Return the newest answered orders, and how many there were by action and answer."""
    signal, engine = _signal(sources), _engine(sources)
    answers: Mapping[str, Mapping[str, int]] = {} if engine is None else engine.answers
    executed = [f"{by_answer[ACK]:,} x {action}" for action, by_answer in answers.items() if ACK in by_answer]
    refused: Counter[str] = Counter()
    for action in filter(None, answers):
        for answer, number in answers[action].items():
            if answer != ACK:
                refused[SHORT_ANSWERS.get(answer, answer)] += number
    totals = [*executed, *(f"{number:,} refused: {answer}" for answer, number in refused.items())]
    orders = [] if signal is None else signal.orders[: -ORDERS_SHOWN - 1 : -1]
    return {
        "rows": [_order(order) for order in orders],
        "totals": ", ".join(totals),
        "many": len({pair.group for pair in sources.board.pairs}) > 1,
    }


def _order(order: OrderStatus) -> Context:
    opens = order.action == OPEN_SPREAD
    value = order.sell_price - order.buy_price if opens else order.buy_price - order.sell_price
    legs = (order.buy, order.sell) if opens else (order.sell, order.buy)
    return {
        "at": clock(order.answered_ms),
        "opens": opens,
        "spread": f"spread {order.spread_id}" if order.spread_id else "",
        "pair": pair_name(*legs),
        "size": figure(order.size),
        "value": figure(value),
        "acked": order.acked,
        "info": order.info,
        "short": SHORT_ANSWERS.get(order.info, order.info.partition(":")[0]),
        "decided": milliseconds(order.decided_seconds),
        "answered": milliseconds(order.answered_seconds),
    }


# --- plumbing ------------------------------------------------------------------------------------


def plumbing(sources: Sources, now_ms: int) -> Context:
    """Return what flows through each service, what waits, and what is left of the disk."""
    facts = sources.facts
    days = None
    if facts is not None and facts.bytes_per_day and facts.disk_free is not None:
        days = facts.disk_free / facts.bytes_per_day
    storage = sources.board.statuses.get("storage")
    stored = storage.storage.stored_cts_ms if storage is not None and storage.storage is not None else 0
    versions = sorted({status.version for status in sources.board.statuses.values()})
    started = [status.started_ms for status in sources.board.statuses.values()]
    return {
        "rows": [_plumbing_row(sources, name) for name in SERVICES],
        "disk_free": None if facts is None or facts.disk_free is None else size(facts.disk_free),
        "disk_total": None if facts is None else size(facts.disk_total),
        "days": None if days is None else count(days, 0 if days >= 10 else 1),
        "stored": clock(stored) if stored else None,
        "tables": None if facts is None else size(sum(facts.table_bytes.values())),
        "versions": ", ".join(versions),
        "up": duration((now_ms - min(started)) / 1000) if started else None,
    }


def _plumbing_row(sources: Sources, name: str) -> Context:
    board = sources.board
    status = board.statuses.get(name)
    queue = _QUEUES[name]
    depth = sources.queues.depth(queue) if queue else None
    dead = sources.queues.depth(dead_letter_queue(queue)) if queue else None
    histogram, meaning = _LATENCIES[name]
    latency = board.latency(name, histogram)
    cpu = board.rate(name, "cpu")
    outgoing = count(board.rate(name, "out"), 1)
    collector = status.collector if status is not None else None
    signal = status.signal if status is not None else None
    return {
        "name": name,
        "in": count(board.rate(name, "in"), 1),
        "out": f"{outgoing} rows" if name == "storage" else outgoing,
        "queue": queue or NOTHING,
        "waiting": NOTHING if depth is None else count(depth.messages),
        "dead": NOTHING if dead is None else count(dead.messages),
        "has_dead": dead is not None and dead.messages > 0,
        "median": milliseconds(latency.median),
        "high": milliseconds(latency.high),
        "meaning": meaning,
        "dropped": NOTHING if collector is None else count(collector.dropped),
        "reconnects": NOTHING if collector is None else count(sum(s.reconnects for s in collector.streams)),
        "resyncs": _resyncs(collector, signal),
        "memory": NOTHING if status is None else size(status.resident_bytes),
        "cpu": NOTHING if cpu is None else f"{cpu * 100:.0f} %",
    }


def _resyncs(collector: Any, signal: SignalStatus | None) -> str:
    if collector is not None:
        return count(sum(stream.resyncs for stream in collector.streams))
    return NOTHING if signal is None else count(signal.snapshots_requested)
