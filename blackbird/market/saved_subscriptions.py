"""The subscriptions with their matching keys, as the broker keeps them for a collector's next start."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal, NamedTuple

import msgspec

from blackbird.market.fields import InvalidMessage
from blackbird.market.instrument import Instrument


class SavedSubscription(NamedTuple):
    """A subscription; `accepted` says whether the exchange ever accepted it."""

    instrument: Instrument
    matching_key: str
    accepted: bool = True


class _Entry(msgspec.Struct, omit_defaults=True):
    symbol: Annotated[str, msgspec.Meta(min_length=1)]
    matching_key: Annotated[str, msgspec.Meta(min_length=1)]
    accepted: bool = True


_decode = msgspec.json.Decoder(dict[Literal["spot", "linear", "inverse", "option"], list[_Entry]]).decode


def encode_saved(subscriptions: Iterable[SavedSubscription]) -> bytes:
    """Return subscriptions as they are saved: by channel, like the answer of GET /subscriptions."""
    channels: dict[str, list[_Entry]] = {}
    for (channel, symbol), matching_key, accepted in subscriptions:
        channels.setdefault(channel, []).append(_Entry(symbol, matching_key, accepted))
    return msgspec.json.encode(channels)


def decode_saved(body: bytes) -> list[SavedSubscription]:
    """Return the saved subscriptions; raises InvalidMessage."""
    try:
        channels = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidMessage(str(error)) from None
    return [
        SavedSubscription(Instrument(channel, entry.symbol), entry.matching_key, entry.accepted)
        for channel, entries in channels.items()
        for entry in entries
    ]
