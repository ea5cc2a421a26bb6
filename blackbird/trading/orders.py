"""Orders, replies, the texts of replies and the records of what was decided, with their JSON forms."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final, Literal, NamedTuple, Protocol

import msgspec

from blackbird.market.decimals import LARGEST, MAX_DIGITS, SMALLEST
from blackbird.market.fields import LARGEST_BIGINT, MAX_TEXT, InvalidMessage, is_db_safe
from blackbird.market.instrument import CHANNELS, Instrument

OPEN_SPREAD: Final = "Open Spread"
CLOSE_SPREAD: Final = "Close Spread"
UNWIND: Final = "Unwind"  # of what a trade bought and sold of one instrument; no order has it
LIST_OPEN_SPREADS = "List Open Spreads"
RESOLVE_LEFTOVER = "Resolve Leftover"

ACK: Final = "ACK"
NOT_ACK: Final = "NOT ACK"

# What `info` of a reply says. Both engines compare with these; third-party clients may too, see the contract.
ORDER_PLACED: Final = "order placed"
OPEN_SPREADS: Final = "open spreads"
LEFTOVER_RESOLVED: Final = "leftover resolved"
ALREADY_PLACED: Final = "order already placed"
EXPIRED: Final = "expired"
RISK_LIMIT_EXCEED: Final = "risk limit exceed"
BUY_LEG_FAILED: Final = "buy leg failed"
SELL_LEG_FAILED: Final = "sell leg failed"
INTERNAL_ERROR: Final = "internal error"
# Of real orders, before anything is sent ...
COOLING_DOWN: Final = "cooling down"
LEFTOVER: Final = "leftover of an earlier trade"
INSTRUMENT_NOT_TRADABLE: Final = "instrument not tradable"
RATE_LIMIT: Final = "rate limit"
NOT_CONNECTED: Final = "not connected to the exchange"
# ... and after both legs were sent; BUY_LEG_FAILED and SELL_LEG_FAILED where one of them was filled.
NOT_FILLED: Final = "not filled"
NOT_PLACED: Final = "order not placed"

_NOT_ENOUGH: Final = "not enough "
_OUTLASTING: Final = frozenset({COOLING_DOWN, LEFTOVER, NOT_CONNECTED, RATE_LIMIT})
_INVALID_ORDER: Final = "invalid order: "
_INVALID_SPREAD: Final = f"{_INVALID_ORDER}spread_id: "

MAX_ORDER_BYTES = 65_536


# --- orders and replies --------------------------------------------------------------------------


class Order(msgspec.Struct, frozen=True):
    """Buy one leg and sell the other, both `size` (base coin), at the given prices (quote coin).

    `ts_buy` and `ts_sell` are the matching engine's milliseconds of the books that were traded on;
    `expires_at` is the millisecond after which the order must not be executed. To measure latency alone, in
    milliseconds and where the sender gives them: `published_...` and `received_...` are when the last message
    of each leg's book was published and taken from the broker, `decided_at` when the order was made.
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
    published_buy: int | None = None
    published_sell: int | None = None
    received_buy: int | None = None
    received_sell: int | None = None
    decided_at: int | None = None


class LeftoverRequest(msgspec.Struct, frozen=True):
    """A person's word on a leftover: traded away by hand at `price`, without one kept as it is."""

    trade_id: str
    number: int
    price: Decimal | None = None


class Executed(Protocol):
    """What was executed of an order: the size of each leg in base coin, and the legs' prices."""

    @property
    def size(self) -> Decimal:
        """The size of each leg."""

    @property
    def buy_price(self) -> Decimal:
        """The price of the leg that was bought."""

    @property
    def sell_price(self) -> Decimal:
        """The price of the leg that was sold."""


class Figures(NamedTuple):
    """What was executed, by the reply to a real order."""

    size: Decimal
    buy_price: Decimal
    sell_price: Decimal


class OpenSpread(msgspec.Struct, frozen=True, omit_defaults=True):
    """A spread that is open: `quantity` of `long` bought and of `short` sold, `spread` = sold - bought.

    `long_price` and `short_price` are the prices at entry in quote coin, None where the sender gave none.
    """

    spread_id: str
    long: Instrument
    short: Instrument
    spread: Decimal
    quantity: Decimal
    long_price: Decimal | None = None
    short_price: Decimal | None = None


class Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    """The trading engine's answer to an order (`status` ACK or NOT ACK) or to a question.

    The ACK of a real order has what was executed: `size` of each leg in base coin, the average prices of its
    fills, and the `fee` of both legs in quote coin, which is missing where it is not known.
    """

    status: Literal["ACK", "NOT ACK"]
    info: str
    open_spreads: list[OpenSpread] | None = None
    size: Decimal | None = None
    buy_price: Decimal | None = None
    sell_price: Decimal | None = None
    fee: Decimal | None = None

    @property
    def acked(self) -> bool:
        """Return whether the order was executed."""
        return self.status == ACK

    def executed(self, order: Order) -> Executed:
        """Return what was executed of an acked `order`: all of it where the reply does not say otherwise."""
        if self.size is None or self.buy_price is None or self.sell_price is None:
            return order
        return Figures(self.size, self.buy_price, self.sell_price)

    @property
    def label(self) -> str:
        """What answers are counted by: ACK or the question's text, or the reason without its particulars."""
        return ACK if self.info == ORDER_PLACED else self.info.partition(":")[0]

    @property
    def contradicts_open_spreads(self) -> bool:
        """Return whether the trading engine refused the order because of its `spread_id`.

        What the sender believes to be open is not what the engine has open, and the engine is the authority.
        """
        return not self.acked and self.info.startswith(_INVALID_SPREAD)


def outlasts_books(info: str) -> bool:
    """Return whether an order was refused for a reason that other prices do not change."""
    return info in _OUTLASTING or info.startswith((INSTRUMENT_NOT_TRADABLE, _NOT_ENOUGH))


class Refused(Exception):
    """An order is not executed; the text is the `info` of its reply."""


def invalid_order(why: str) -> str:
    """Return the reply text for a body that is not a valid order, `why` being "<field>: <reason>"."""
    return f"{_INVALID_ORDER}{why}"


def size_below_minimum(why: str) -> str:
    """Return the reply text for an order too small for a leg, `why` being "<size> of <instrument>"."""
    return f"size below minimum: {why}"


def not_enough(coin: str) -> str:
    """Return the reply text for an order that the account's balance of `coin` does not cover."""
    return f"{_NOT_ENOUGH}{coin}"


def invalid_leftover(why: str) -> str:
    """Return the reply text for a request about a leftover that is not waiting to be resolved."""
    return f"{_INVALID_ORDER}leftover: {why}"


def invalid_spread(why: str) -> str:
    """Return the reply text for an order whose `spread_id` does not fit what is open."""
    return f"{_INVALID_SPREAD}{why}"


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


def encode_leftover_request(request: LeftoverRequest) -> bytes:
    """Return `request` as JSON; its price is written exactly."""
    fields = {"action": RESOLVE_LEFTOVER, **msgspec.structs.asdict(request)}
    return _encode({name: value for name, value in fields.items() if value is not None})


QUESTION = msgspec.json.encode({"action": LIST_OPEN_SPREADS})


# Not msgspec's typed decoding, though it reads decimals exactly: it takes "0.25" for the number 0.25, has no
# bounds for decimals, and its errors lack the value, so that the checks below would be needed beside it.
_decode_numbers = json.JSONDecoder(parse_float=Decimal, parse_constant=Decimal).decode


def decode_request(body: bytes) -> Order | LeftoverRequest | None:
    """Return the order or the request in `body`, or None where it is the question for the open spreads.

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
    if action == RESOLVE_LEFTOVER:
        return _leftover_request(fields)
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
        expires_at=_optional_milliseconds(fields, "expires_at"),
        published_buy=_optional_milliseconds(fields, "published_buy"),
        published_sell=_optional_milliseconds(fields, "published_sell"),
        received_buy=_optional_milliseconds(fields, "received_buy"),
        received_sell=_optional_milliseconds(fields, "received_sell"),
        decided_at=_optional_milliseconds(fields, "decided_at"),
    )
    if order.buy == order.sell:
        raise InvalidMessage("sell: expected another leg than buy, was the same")
    return order


def _leftover_request(fields: Mapping[str, Any]) -> LeftoverRequest:
    trade_id = _identifier(fields, "trade_id")
    if trade_id is None:
        raise InvalidMessage("trade_id: expected text, was missing")
    number = _field(fields, "number")
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise InvalidMessage(f"number: expected a whole number above zero, was {number!r:.80}")
    price = _amount(fields, "price") if fields.get("price") is not None else None
    return LeftoverRequest(trade_id, number, price)


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
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LARGEST_BIGINT:
        raise InvalidMessage(f"{name}: expected milliseconds as a whole number, was {value!r:.80}")
    return value


def _optional_milliseconds(fields: Mapping[str, Any], name: str) -> int | None:
    return None if fields.get(name) is None else _milliseconds(fields, name)


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
    if not is_db_safe(value):
        raise InvalidMessage(f"{name}: expected text without NUL and lone surrogates, was {value!r:.80}")
