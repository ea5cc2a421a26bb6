"""The levels of a message as rows, and what rows do not say: the order of the levels, and their text.

Rows of a table have no order. Bybit sends the levels of a side best first: of those nothing is kept. Of a
message in another order, or with numbers that the database would write otherwise (007, 1e3), the text is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from operator import gt, lt

import msgspec

from blackbird.market.book_message import BookMessage
from blackbird.market.level_order import REMOVED_FIRST
from blackbird.market.levels import canonical_prices, text_levels
from database_manager import copy_text

_escaped = lru_cache(maxsize=10_000)(copy_text)
_text = msgspec.json.encode
_REMOVED = b',"0"]'  # how a level of size 0 ends

# Compares two prices: gt for bids, lt for asks.
Better = Callable[[float, float], bool]


def message_rows(message: BookMessage) -> tuple[str, str | None]:
    """Return the rows of a message as lines of COPY's text format, one per level, and its `as_sent`.

    That is None where each side is best first; REMOVED_FIRST where each side has its removed levels first,
    and both parts are best first; else the levels as they came. Raises InvalidMessage on levels that are not
    prices and sizes.
    """
    data = message.data
    head = (
        f"{_escaped(message.topic)}\t{message.type}\t{message.ts}\t{message.channel}\t{_escaped(data.s)}"
        f"\t{data.u}\t{data.seq}\t"
    )
    tail = f"\t{message.cts}\t{_escaped(message.matching_key)}\n"
    bids, asks = bytes(data.b), bytes(data.a)
    bid_lines, bid_break = _side_lines(bids, f"{head}bid\t", tail, gt)
    ask_lines, ask_break = _side_lines(asks, f"{head}ask\t", tail, lt)
    lines = bid_lines + ask_lines
    if bid_break == 0 == ask_break and lines:
        return lines, None
    if lines and _removed_first(bids, bid_break) and _removed_first(asks, ask_break):
        return lines, REMOVED_FIRST
    return lines, _as_sent(message, bids, asks)


def _side_lines(side: bytes, head: str, tail: str, better: Better) -> tuple[str, int]:
    """Return the lines of a side, and after how many levels a better one follows, 0 where none does.

    Below 0 where that happens more than once, or the side's text is not what would be made of the rows.
    """
    if side == b"[]":
        return "", 0
    prices = canonical_prices(side, 0)
    if prices is None:
        return "".join([f"{head}{price}\t{size}{tail}" for price, size in text_levels(side)]), -1
    # [["61837.24","0"],["61837.23","1.2"]]: replace what separates numbers by what separates columns, rows.
    levels = side[3:-3].decode().replace('","', "\t").replace('"],["', tail + head)
    lines = f"{head}{levels}{tail}"
    if len(prices) == 1 or all(map(better, prices, prices[1:])):
        return lines, 0
    in_order = list(map(better, prices, prices[1:]))
    return lines, in_order.index(False) + 1 if in_order.count(False) == 1 else -1


def _removed_first(side: bytes, better_follows: int) -> bool:
    """Return whether a side is its levels of size 0, then the others, and both parts are best first."""
    count = side.count(_REMOVED)
    if better_follows not in {0, count}:
        return False
    # As many levels as are removed end before the last of them does.
    return not count or side.count(b"]", 0, side.rfind(_REMOVED) + len(_REMOVED)) == count


def _as_sent(message: BookMessage, bids: bytes, asks: bytes) -> str:
    """Return the levels as they came, and what else rows say of a message, which may have none."""
    data = message.data
    kept = {"ts": message.ts, "s": data.s, "matching_key": message.matching_key}
    return _text({**kept, "b": bids.decode(), "a": asks.decode()}).decode()
