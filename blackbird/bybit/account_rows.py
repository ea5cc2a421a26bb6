"""What the rows of the account say: orders and executions, from the private stream and from the look-ups.

https://bybit-exchange.github.io/docs/v5/websocket/private/order, .../execution, .../wallet, .../position.
Numbers are texts, and empty ones where there is no number.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from blackbird.market.decimals import EXACT, ZERO
from blackbird.market.instrument import Instrument
from blackbird.trading.leg_order import Fill, Final, Taken

logger = logging.getLogger(__name__)

Row = Mapping[str, Any]

# https://bybit-exchange.github.io/docs/v5/enum, order status. The quantity decides what was filled, not this.
OVER = frozenset({"Filled", "Cancelled", "PartiallyFilledCanceled", "Rejected", "Deactivated"})
TRADE = "Trade"
# They change a position from outside (https://bybit-exchange.github.io/docs/v5/enum, exec type).
FORCED = frozenset({"AdlTrade", "BustTrade", "Delivery", "Settle", "MovePosition"})


class InvalidRow(ValueError):
    """A row that the exchange does not send."""


class Wallet(NamedTuple):
    """What the account has of a coin."""

    coin: str
    balance: Decimal
    locked: Decimal
    borrowed: Decimal

    @property
    def free(self) -> Decimal:
        """Return what may be spent: what is neither borrowed nor set aside for open orders."""
        return EXACT.subtract(EXACT.subtract(self.balance, self.locked), self.borrowed)


class Position(NamedTuple):
    """A position in base coin, below zero where it is short; `idx` is 0 in one-way mode.

    `leverage` is None where the exchange does not say it, as in portfolio margin mode.
    """

    symbol: str
    idx: int
    size: Decimal
    leverage: Decimal | None = None


def read_order(row: Row) -> Taken | Final:
    """Return what a row says of an order: that the exchange has it, or that it is over; raises InvalidRow."""
    try:
        link_id = row["orderLinkId"]
        if row["orderStatus"] in OVER:
            return Final(link_id, _number(row["cumExecQty"]))
        return Taken(link_id, row["orderId"])
    except (LookupError, TypeError, ArithmeticError) as error:
        raise InvalidRow(f"expected an order, was a row without ({type(error).__name__}: {error})") from None


def read_fill(row: Row, category: str, settle_coin: str) -> Fill:
    """Return the execution in a row; raises InvalidRow.

    Taxes come on top of its fee. Linear rows may lack the fee's coin, which is that of the settlement.
    """
    try:
        fee_coin = row.get("feeCurrency") or settle_coin
        return Fill(
            exec_id=row["execId"],
            link_id=row["orderLinkId"],
            instrument=Instrument(category, row["symbol"]),
            side=row["side"],
            price=Decimal(row["execPrice"]),
            quantity=Decimal(row["execQty"]),
            fee=EXACT.add(_number(row["execFee"]), _taxes(row, fee_coin)),
            fee_coin=fee_coin,
            time=int(row["execTime"]),
            exec_type=row["execType"],
        )
    except (LookupError, TypeError, ArithmeticError, ValueError) as error:
        raise InvalidRow(
            f"expected an execution, was a row without ({type(error).__name__}: {error})"
        ) from None


def base_fee_rate(row: Row, base: str) -> Decimal:
    """Return the fraction that was taken from what a spot buy bought, 0 for fees in another coin."""
    try:
        return max(_number(row["feeRate"]), ZERO) if row["feeCurrency"] == base else ZERO
    except (LookupError, TypeError, ArithmeticError) as error:
        raise InvalidRow(f"expected a fee rate, was {type(error).__name__}: {error}") from None


def read_wallets(row: Row) -> list[Wallet]:
    """Return the coins of an account's row; raises InvalidRow."""
    try:
        return [
            Wallet(
                coin["coin"],
                _number(coin["walletBalance"]),
                _number(coin.get("locked")),
                _number(coin.get("spotBorrow")),
            )
            for coin in row["coin"]
        ]
    except (LookupError, TypeError, ArithmeticError) as error:
        raise InvalidRow(f"expected a wallet, was a row without ({type(error).__name__}: {error})") from None


def read_free_margin(row: Row) -> Decimal | None:
    """Return what of an account's margin is free, in USD, None where its row does not say it."""
    try:
        free = row.get("totalAvailableBalance")
        return Decimal(free) if free else None
    except (TypeError, ArithmeticError) as error:
        raise InvalidRow(f"expected a free margin, was {type(error).__name__}: {error}") from None


def read_position(row: Row) -> Position:
    """Return the position in a row; raises InvalidRow."""
    try:
        size = _number(row["size"])
        signed = -size if row["side"] == "Sell" else size
        leverage = _number(row.get("leverage"))
        return Position(row["symbol"], int(row["positionIdx"]), signed, leverage if leverage > ZERO else None)
    except (LookupError, TypeError, ArithmeticError, ValueError) as error:
        raise InvalidRow(
            f"expected a position, was a row without ({type(error).__name__}: {error})"
        ) from None


def _taxes(row: Row, fee_coin: str) -> Decimal:
    taxes = row.get("extraFees")
    total = ZERO
    for tax in taxes if isinstance(taxes, list) else ():
        if tax["feeCoin"] != fee_coin:
            logger.error("expected taxes in %s like the fee, was %s: not booked", fee_coin, tax)
            continue
        total = EXACT.add(total, _number(tax["fee"]))
    return total


def _number(text: str | None) -> Decimal:
    return Decimal(text) if text else ZERO
