"""The shapes of everything that travels over the broker, and the checks of what strangers send.

Order-book message (keys `storage` and `signal`), subscription map (`subscription`), resync request
(`resync`), order and reply (queue `orders`). Prices, sizes and money are exact decimals everywhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from decimal import Context, Decimal, DivisionByZero, Inexact, InvalidOperation, Overflow
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec

CHANNELS = ("spot", "linear", "inverse", "option")

OPEN_SPREAD: Final = "Open Spread"
CLOSE_SPREAD: Final = "Close Spread"
LIST_OPEN_SPREADS = "List Open Spreads"

ACK: Final = "ACK"
NOT_ACK: Final = "NOT ACK"

# Larger bodies are refused unread: Bybit's deepest book (1000 levels a side) is about 50 kB.
MAX_BOOK_BYTES = 1_000_000
MAX_ORDER_BYTES = 65_536

# What a price or size may be: below 10^20, zero or at least 10^-20, at most 40 significant digits.
# Products and sums of such numbers fit EXACT, which raises instead of rounding.
LARGEST = Decimal("1E+20")
SMALLEST = Decimal("1E-20")
MAX_DIGITS = 40
EXACT = Context(prec=200, traps=[InvalidOperation, DivisionByZero, Overflow, Inexact])
ZERO = Decimal(0)

MAX_TEXT = 256
MOST_DECIMALS = 100_000
READ_AT_ONCE = 200  # bytes: reading so few levels costs less than asking whether they are plain
# Numbers as the exchange writes them, within the bounds by their length alone; and all that we take.
_PLAIN_DECIMAL = re.compile(r"[0-9]{1,20}(?:\.[0-9]{1,20})?").fullmatch
_DECIMAL = re.compile(r"[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,2})?").fullmatch
_UNSTORABLE = re.compile("[\0\ud800-\udfff]").search
_BIGINT = 2**63 - 1


class InvalidMessage(ValueError):
    """A body that is not what its queue takes; the text says which field and why."""


class Instrument(NamedTuple):
    """What is traded: a symbol on a channel (market) of the exchange."""

    channel: str
    symbol: str

    def __str__(self) -> str:
        return f"{self.channel}:{self.symbol}"


TextLevels = list[tuple[str, str]]
Levels = list[tuple[Decimal, Decimal]]

_Integer = Annotated[int, msgspec.Meta(ge=0, le=_BIGINT)]
_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_TEXT)]


class BookData(msgspec.Struct, frozen=True, gc=False):
    """`data` of a push: bids and asks as the JSON that came, update id `u`, cross sequence `seq`."""

    s: _Text
    b: msgspec.Raw
    a: msgspec.Raw
    u: _Integer
    seq: _Integer


class BookMessage(msgspec.Struct, frozen=True, gc=False):
    """A push of Bybit's order-book topic plus `channel` and `matching_key`. Times are milliseconds."""

    topic: _Text
    type: Literal["snapshot", "delta"]
    ts: _Integer
    data: BookData
    cts: _Integer
    channel: Literal["spot", "linear", "inverse", "option"]
    matching_key: _Text

    @property
    def instrument(self) -> Instrument:
        """Return the instrument whose book this updates."""
        return Instrument(self.channel, self.data.s)


_decode_book = msgspec.json.Decoder(BookMessage).decode


def decode_book(body: bytes) -> BookMessage:
    """Return the order-book message in `body`; its levels are checked by whoever reads them.

    Raises InvalidMessage on anything that is not one.
    """
    if len(body) > MAX_BOOK_BYTES:
        raise InvalidMessage(f"expected at most {MAX_BOOK_BYTES} bytes, was {len(body)}")
    try:
        message = _decode_book(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidMessage(str(error)) from None
    if b"\\" in body:
        for text in (message.topic, message.data.s, message.matching_key):
            if not storable(text):
                raise InvalidMessage(f"expected text without NUL and lone surrogates, was {text!r}")
    return message


def storable(text: str) -> bool:
    """Tell whether a database text can hold `text`: JSON can spell NUL and lone surrogates, it cannot."""
    return _UNSTORABLE(text) is None


def text_levels(side: bytes | msgspec.Raw) -> TextLevels:
    """Return the levels in the JSON of one side as (price, size) texts, as `decimal_levels` takes them.

    Raises InvalidMessage on anything but decimal texts, and on numbers too large or too fine.
    """
    levels = _texts(side)
    for price, size in levels:
        _PRICES[price]
        _SIZES[size]
    return levels


def decimal_levels(side: bytes | msgspec.Raw) -> Levels:
    """Return the levels in the JSON of one side as exact decimals: price above zero, size zero or above.

    Raises InvalidMessage on anything but decimal texts, and on numbers too large or too fine.
    """
    return [(_PRICES[price], _SIZES[size]) for price, size in _texts(side)]


def _texts(side: bytes | msgspec.Raw) -> TextLevels:
    try:
        return _decode_levels(side)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidMessage(f"levels: {error}") from None


_decode_levels = msgspec.json.Decoder(TextLevels).decode


def plain_prices(side: bytes) -> list[float] | None:
    """Return the prices in the JSON of one side, to the precision of floats, if it is plain, else None.

    Plain means no blanks, and nothing but levels that `decimal_levels` takes, in digits and dots: nearly all
    that come are. What has to hold for each number is asked of all of them at once, which costs a third of
    reading them, less where the numbers are new. Also None for a side of few levels.
    """
    if len(side) < READ_AT_ONCE:
        return None
    # Without its digits and dots the side is nothing but pairs of quotes ...
    pairs = side.translate(None, b"0123456789.")
    if pairs != b'[["",""]%b]' % (b',["",""]' * (len(pairs) // 8 - 1)):
        return None
    # ... and without quotes and brackets nothing but numbers, none of them too long.
    alone = side.translate(None, b'"[]')
    if _TOO_LONG in alone.translate(_AS_ZERO):
        return None
    try:
        numbers = _decode_numbers_alone(b"[%b]" % alone)
    except msgspec.DecodeError:
        return None
    prices = numbers[::2]
    return prices if all(prices) else None


_AS_ZERO = bytes.maketrans(b"123456789", b"000000000")
_TOO_LONG = b"0" * 21
_decode_numbers_alone = msgspec.json.Decoder(list[float]).decode


def best_level(side: bytes, *, highest: bool) -> tuple[Decimal, Decimal] | None:
    """Return price and size of the first level of a plain side whose first level is its best, else None."""
    prices = plain_prices(side)
    if prices is None or prices != sorted(prices, reverse=highest) or prices[0] in prices[1:2]:
        return None
    _, price, _, text, _ = side.split(b'"', 4)
    size = _SIZES[text.decode()]
    return (_PRICES[price.decode()], size) if size else None


class _Decimals(dict[str, Decimal]):
    """Decimals by their texts, which come again and again: a look-up costs a fifth of making the decimal."""

    def __init__(self, make: Callable[[str], Decimal]) -> None:
        self._make = make

    def __missing__(self, text: str) -> Decimal:
        if len(self) >= MOST_DECIMALS:
            self.clear()
        number = self[text] = self._make(text)
        return number


def _price(text: str) -> Decimal:
    price = _size(text)
    if price == ZERO:
        raise InvalidMessage(f"expected a price above zero, was {text!r}")
    return price


def _size(text: str) -> Decimal:
    if _PLAIN_DECIMAL(text):
        return Decimal(text)
    if len(text) > MAX_DIGITS or not _DECIMAL(text):
        raise InvalidMessage(f"expected a decimal number, was {text[:MAX_DIGITS]!r}")
    size = Decimal(text)
    if size != ZERO and not SMALLEST <= size < LARGEST:
        raise InvalidMessage(f"expected {SMALLEST} to {LARGEST}, was {text!r}")
    return size


_PRICES = _Decimals(_price)
_SIZES = _Decimals(_size)


# --- subscription map and resync request ---------------------------------------------------------


class _Resync(msgspec.Struct, frozen=True):
    channel: Literal["spot", "linear", "inverse", "option"]
    symbol: _Text


_decode_resync = msgspec.json.Decoder(_Resync).decode
_decode_map = msgspec.json.Decoder(dict[Literal["spot", "linear", "inverse", "option"], list[_Text]]).decode


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


# --- orders and replies --------------------------------------------------------------------------


class Order(msgspec.Struct, frozen=True):
    """Buy one leg and sell the other, both `size` (base coin), at the given prices (quote coin).

    `ts_buy` and `ts_sell` are the matching engine's milliseconds of the books that were traded on;
    `expires_at` is the millisecond after which the order must not be executed.
    """

    action: Literal["Open Spread", "Close Spread"]
    buy: Instrument
    buy_price: Decimal
    sell: Instrument
    sell_price: Decimal
    size: Decimal
    ts_buy: int
    ts_sell: int
    order_id: str | None = None
    spread_id: str | None = None
    expires_at: int | None = None


class OpenSpread(msgspec.Struct, frozen=True):
    """A spread that is open: `quantity` of `long` bought and of `short` sold, `spread` = sold - bought."""

    spread_id: str
    long: Instrument
    short: Instrument
    spread: Decimal
    quantity: Decimal


class Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    """The trading engine's answer to an order (`status` ACK or NOT ACK) or to a question."""

    status: Literal["ACK", "NOT ACK"]
    info: str
    open_spreads: list[OpenSpread] | None = None

    @property
    def acked(self) -> bool:
        """Tell whether the order was executed."""
        return self.status == ACK


_encode = msgspec.json.Encoder(decimal_format="number").encode
_decode_reply = msgspec.json.Decoder(Reply).decode


def encode_order(order: Order) -> bytes:
    """Return `order` as JSON; its numbers are written exactly."""
    return _encode(
        {name: value for name, value in msgspec.structs.asdict(order).items() if value is not None}
    )


def encode_reply(reply: Reply) -> bytes:
    """Return `reply` as JSON; its numbers are written exactly."""
    return _encode(reply)


def decode_reply(body: bytes) -> Reply:
    """Return the reply in `body`; raises InvalidMessage."""
    try:
        return _decode_reply(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidMessage(str(error)) from None


QUESTION = msgspec.json.encode({"action": LIST_OPEN_SPREADS})


_decode_numbers = json.JSONDecoder(parse_float=Decimal, parse_constant=Decimal).decode


def decode_request(body: bytes) -> Order | None:
    """Return the order in `body`, or None where it is the question for the open spreads.

    Numbers are taken exactly as they are written. Raises InvalidMessage "<field>: <why>".
    """
    if len(body) > MAX_ORDER_BYTES:
        raise InvalidMessage(f"body: expected at most {MAX_ORDER_BYTES} bytes, was {len(body)}")
    try:
        fields = _decode_numbers(body.decode())
    except (ValueError, RecursionError, InvalidOperation) as error:
        raise InvalidMessage(f"body: expected JSON, was not: {error}") from None
    if not isinstance(fields, dict):
        raise InvalidMessage(f"body: expected an object, was {type(fields).__name__}")
    action = fields.get("action")
    if action == LIST_OPEN_SPREADS:
        return None
    if action not in (OPEN_SPREAD, CLOSE_SPREAD):
        raise InvalidMessage(f"action: expected {OPEN_SPREAD!r} or {CLOSE_SPREAD!r}, was {action!r:.80}")
    order = Order(
        action=action,
        buy=_leg(fields, "buy"),
        buy_price=_amount(fields, "buy_price"),
        sell=_leg(fields, "sell"),
        sell_price=_amount(fields, "sell_price"),
        size=_amount(fields, "size"),
        ts_buy=_milliseconds(fields, "ts_buy"),
        ts_sell=_milliseconds(fields, "ts_sell"),
        order_id=_identifier(fields, "order_id"),
        spread_id=_identifier(fields, "spread_id"),
        expires_at=_milliseconds(fields, "expires_at") if fields.get("expires_at") is not None else None,
    )
    if order.buy == order.sell:
        raise InvalidMessage("sell: expected another leg than buy, was the same")
    return order


def _field(fields: Mapping[str, Any], name: str) -> Any:
    if name not in fields:
        raise InvalidMessage(f"{name}: expected a value, was missing")
    return fields[name]


def _leg(fields: Mapping[str, Any], name: str) -> Instrument:
    value = _field(fields, name)
    if not (isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value)):
        raise InvalidMessage(f"{name}: expected [channel, symbol], was {value!r:.80}")
    channel, symbol = value
    if channel not in CHANNELS:
        raise InvalidMessage(f"{name}: expected a channel of {', '.join(CHANNELS)}, was {channel!r:.80}")
    _check_text(name, symbol)
    return Instrument(channel, symbol)


def _amount(fields: Mapping[str, Any], name: str) -> Decimal:
    value = _field(fields, name)
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise InvalidMessage(f"{name}: expected a number, was {value!r:.80}")
    amount = Decimal(value)
    if not amount.is_finite() or amount <= 0:
        raise InvalidMessage(f"{name}: expected a finite number above zero, was {value!s:.80}")
    if not SMALLEST <= amount < LARGEST or len(amount.as_tuple().digits) > MAX_DIGITS:
        raise InvalidMessage(
            f"{name}: expected {SMALLEST} to {LARGEST} in at most {MAX_DIGITS} digits, was {value!s:.80}"
        )
    return amount


def _milliseconds(fields: Mapping[str, Any], name: str) -> int:
    value = _field(fields, name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _BIGINT:
        raise InvalidMessage(f"{name}: expected milliseconds as a whole number, was {value!r:.80}")
    return value


def _identifier(fields: Mapping[str, Any], name: str) -> str | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidMessage(f"{name}: expected text, was {value!r:.80}")
    _check_text(name, value)
    return value


def _check_text(name: str, value: str) -> None:
    if not 1 <= len(value) <= MAX_TEXT:
        raise InvalidMessage(f"{name}: expected 1 to {MAX_TEXT} characters, was {len(value)}")
    if not storable(value):
        raise InvalidMessage(f"{name}: expected text without NUL and lone surrogates, was {value!r:.80}")
