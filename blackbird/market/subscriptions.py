"""The subscription map and the request for a snapshot (`resync`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from blackbird.market.fields import InvalidMessage, Text
from blackbird.market.instrument import Instrument

# --- subscription map and resync request ---------------------------------------------------------


class _Resync(msgspec.Struct, frozen=True):
    channel: Literal["spot", "linear", "inverse", "option"]
    symbol: Text


_decode_resync = msgspec.json.Decoder(_Resync).decode
_decode_map = msgspec.json.Decoder(dict[Literal["spot", "linear", "inverse", "option"], list[Text]]).decode


def encode_resync(instrument: Instrument) -> bytes:
    """Return the body that asks the collector for a fresh snapshot of `instrument`."""
    return msgspec.json.encode({"channel": instrument.channel, "symbol": instrument.symbol})


def decode_resync(body: bytes) -> Instrument:
    """Return the instrument that a resync request names; raises InvalidMessage."""
    try:
        request = _decode_resync(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidMessage(str(error)) from None
    return Instrument(request.channel, request.symbol)


def encode_subscriptions(instruments: Iterable[Instrument]) -> bytes:
    """Return the full map {channel: [symbols]} of what is subscribed."""
    symbols: dict[str, list[str]] = {}
    for instrument in instruments:
        symbols.setdefault(instrument.channel, []).append(instrument.symbol)
    return msgspec.json.encode(symbols)


def decode_subscriptions(body: bytes) -> list[Instrument]:
    """Return the instruments of a subscription map, in its order; raises InvalidMessage."""
    try:
        symbols = _decode_map(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidMessage(str(error)) from None
    return [Instrument(channel, symbol) for channel in symbols for symbol in symbols[channel]]
