"""Order-book frames from public sources: each is applied as a naive book does it, or refused for a reason."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from blackbird.market.book_message import decode_book
from blackbird.market.fields import InvalidMessage
from blackbird.market.instrument import Instrument
from blackbird.market.order_book import OrderBook
from tests.support.market import assert_same_book
from tests.support.naive_market import NaiveBook

# A push whose time of matching is not known is not traded on, nor one of unknown order; a replay of
# archives of 2023 has to add them first.
REFUSALS = [
    r"missing required field `cts`",
    r"missing required field `seq`",
    r"Expected `int`, got `str` - at `\$\.ts`",
    r"levels: Expected `array` of length 2",
]


def as_published(frame: str, channel: str) -> bytes:
    """Return a push as the collector publishes it."""
    return f'{frame.rstrip()[:-1]},"channel":"{channel}","matching_key":"a"}}'.encode()


@pytest.mark.usefixtures("lazy_and_eager_sides")
def test_frames_are_applied_as_by_a_naive_book_or_refused_for_a_stated_reason(payloads: Path) -> None:
    outcomes: Counter[str] = Counter()
    for sequence in json.loads((payloads / "corpus.json").read_text()):
        books: dict[Instrument, tuple[OrderBook, NaiveBook]] = {}
        for frame in sequence["frames"]:
            outcomes[_outcome(as_published(frame, sequence["channel"]), books, sequence["source"])] += 1
    assert outcomes["applied"] >= 36
    assert outcomes["refused"] <= 27
    assert sum(outcomes.values()) == 77


def _outcome(body: bytes, books: dict[Instrument, tuple[OrderBook, NaiveBook]], source: str) -> str:
    try:
        message = decode_book(body)
        book, naive = books.setdefault(message.instrument, (OrderBook(), NaiveBook()))
        outcome = book.apply(message, 0).name.lower()
    except InvalidMessage as error:
        assert any(re.search(reason, str(error)) for reason in REFUSALS), source  # noqa: PT017 - either is right
        return "refused"
    assert outcome == naive.apply(json.loads(body), 0), source
    assert_same_book(book, naive)
    return outcome


def push(**changes: Any) -> bytes:
    message = {
        "topic": "orderbook.50.BTCUSDT",
        "type": "snapshot",
        "ts": 1723161255608,
        "data": {"s": "BTCUSDT", "b": [["1", "2"]], "a": [["3", "4"]], "u": 1, "seq": 1},
        "cts": 1723161255600,
        "channel": "spot",
        "matching_key": "a",
        **changes,
    }
    return json.dumps({name: value for name, value in message.items() if value is not None}).encode()


@pytest.mark.parametrize(
    ("changes", "reason"), [({"cts": None}, REFUSALS[0]), ({"ts": "1723161255608"}, REFUSALS[2])]
)
def test_push_of_an_older_archive_is_refused_by_the_name_of_the_field(
    changes: dict[str, Any], reason: str
) -> None:
    assert decode_book(push()).cts == 1723161255600
    with pytest.raises(InvalidMessage, match=reason):
        decode_book(push(**changes))
