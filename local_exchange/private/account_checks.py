"""Whether the account can carry an order: position mode, reduce-only, balance and margin."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from local_exchange.private.api import ApiError
from local_exchange.private.decimals import times

if TYPE_CHECKING:
    from local_exchange.private.accounts import Account, Position
    from local_exchange.private.order_request import OrderRequest


@dataclass(frozen=True)
class Allowance:
    """What an order may do: its quantity, and what is set aside or borrowed for it."""

    qty: Decimal
    locked_coin: str = ""
    # For each unit of the quantity.
    locked_per_unit: Decimal = Decimal(0)
    borrowed: Decimal = Decimal(0)


def allow(
    request: OrderRequest, account: Account, locked: dict[str, Decimal], *, can_lend: bool
) -> Allowance:
    """Return what an order may do.

    Args:
        request: the order.
        account: its wallets and positions.
        locked: what open orders have set aside, by coin.
        can_lend: whether the platform has anything to lend.

    Raises:
        ApiError: the account cannot carry it.
    """
    if request.rules.category == "spot":
        return _allow_spot(request, account, locked, can_lend=can_lend)
    return _allow_linear(request, account)


def _allow_spot(
    request: OrderRequest, account: Account, locked: dict[str, Decimal], *, can_lend: bool
) -> Allowance:
    rules = request.rules
    if request.is_buy:
        in_quote = request.order_type == "Market" and request.market_unit != "baseCoin"
        coin, per_unit = rules.quote, Decimal(1) if in_quote else request.price
    else:
        in_quote = request.market_unit == "quoteCoin"
        coin, per_unit = rules.base, 1 / request.price if in_quote else Decimal(1)
    free = account.wallet(coin).balance - locked.get(coin, Decimal(0))
    if coin in account.blocked_coins:
        free = Decimal(0)
    missing = times(request.qty, per_unit) - max(free, Decimal(0))
    if missing <= 0:
        return Allowance(request.qty, coin, per_unit)
    if not request.is_leverage:
        raise ApiError(170131, "Insufficient balance.")
    if account.isolated:
        # Not confirmed.
        raise ApiError(182021, "Cannot enable spot margin while in isolated margin mode.")
    if not account.settings.spot_margin:
        # The texts of these two are not confirmed.
        raise ApiError(170036, "Spot margin trading is not enabled.")
    if not can_lend:
        raise ApiError(170207, "The loan amount of the platform is not enough.")
    return Allowance(request.qty, coin, per_unit, borrowed=missing)


def _allow_linear(request: OrderRequest, account: Account) -> Allowance:
    rules = request.rules
    if account.is_hedged(rules) != (request.position_idx != 0):
        raise ApiError(10001, "position idx not match position mode")
    position = account.position(rules.symbol, request.position_idx)
    closable = closable_by(position, is_buy=request.is_buy)
    qty = request.qty
    if request.reduce_only:
        if not position.size:
            raise ApiError(110017, "current position is zero, cannot fix reduce-only order qty")
        if not closable:
            raise ApiError(110017, "Reduce-only rule not satisfied")
        # Not confirmed: more than the position is cut to it.
        qty = min(qty, closable)
    opening = max(qty - closable, Decimal(0))
    if opening:
        value = times(opening, request.price)
        needed = value / account.settings.leverage + times(value, account.settings.taker_fees["linear"])
        free = account.equity() - account.initial_margin()
        if needed > free or rules.quote in account.blocked_coins:
            raise ApiError(110007, "ab not enough for new order")
    return Allowance(qty)


def closable_by(position: Position, *, is_buy: bool) -> Decimal:
    """Return how much of a position an order of this side closes."""
    return max(-position.size if is_buy else position.size, Decimal(0))
