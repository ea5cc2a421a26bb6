"""Messages whose levels have been read: for a market that is played many times.

Reading levels is more than half of what a message costs without trading. A parsed message takes about 2 kB.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import msgspec

from blackbird.archive.source import Timed
from blackbird.market.book_message import BookData
from blackbird.market.fields import InvalidMessage
from blackbird.market.levels import decimal_levels


def parsed(messages: Iterable[Timed]) -> list[Timed]:
    """Return the messages with their levels as decimals; those that cannot be read stay as they are."""
    return [(at, msgspec.structs.replace(message, data=_read(message.data))) for at, message in messages]


def _read(data: BookData) -> BookData:
    try:
        bids, asks = decimal_levels(data.b), decimal_levels(data.a)
    except InvalidMessage:
        return data
    # Books take both forms, see decimal_levels.
    return BookData(data.s, cast("msgspec.Raw", bids), cast("msgspec.Raw", asks), data.u, data.seq)
