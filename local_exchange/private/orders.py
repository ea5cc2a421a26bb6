"""Orders and executions, and their rows.

Fields: https://bybit-exchange.github.io/docs/v5/order/open-order,
https://bybit-exchange.github.io/docs/v5/order/execution, and the topics of the private stream; which numbers
are padded and which are empty is as in rows that others have got from the exchange.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from local_exchange.private.decimals import padded, plain, times, to_satoshi, total

if TYPE_CHECKING:
    from local_exchange.private.rules import InstrumentRules

# https://bybit-exchange.github.io/docs/v5/enum, order status.
OPEN_STATUSES = {"New", "PartiallyFilled"}


@dataclass(frozen=True)
class Execution:
    """One match of an order with one level of the book, or what else changes a position."""

    exec_id: str
    price: Decimal
    size: Decimal
    fee: Decimal
    fee_rate: Decimal
    fee_coin: str
    # Of the order after it.
    leaves: Decimal
    seq: int
    time_ms: int
    time_ns: int
    # What a linear execution realised.
    profit: Decimal = Decimal(0)
    closed: Decimal = Decimal(0)
    # Tax on top of the fee, and its rate.
    extra_fee: Decimal = Decimal(0)
    extra_rate: Decimal = Decimal(0)
    kind: str = "Trade"

    @property
    def value(self) -> Decimal:
        """Return price times size."""
        return times(self.price, self.size)


@dataclass(eq=False)
class Order:
    """An order that was accepted; its quantity is in base coin unless `in_quote`."""

    rules: InstrumentRules
    order_id: str
    link_id: str
    side: str
    order_type: str
    qty: Decimal
    # Of a market order the internal limit, which it never trades beyond.
    price: Decimal
    time_in_force: str
    created_ms: int
    created_ns: int
    position_idx: int = 0
    reduce_only: bool = False
    is_leverage: bool = False
    # `baseCoin`, `quoteCoin`, or nothing where the request had none.
    market_unit: str = ""
    slippage: tuple[str, str] = ("UNKNOWN", "")
    last_price: Decimal = Decimal(0)
    status: str = "New"
    reject_reason: str = "EC_NoError"
    cancel_type: str = "UNKNOWN"
    updated_ms: int = 0
    executions: list[Execution] = field(default_factory=list)
    # Look-ups do not find it before.
    visible_ns: int = 0
    # Whether `/v5/order/realtime` has forgotten it.
    wiped: bool = False
    # Coin and amount that are set aside for what is not filled.
    locked_coin: str = ""
    locked_per_unit: Decimal = Decimal(0)

    @property
    def category(self) -> str:
        """Return `spot` or `linear`."""
        return self.rules.category

    @property
    def is_buy(self) -> bool:
        """Return whether it buys."""
        return self.side == "Buy"

    @property
    def in_quote(self) -> bool:
        """Return whether its quantity is an amount of quote coin."""
        return (
            self.category == "spot"
            and self.order_type == "Market"
            and (self.market_unit == "quoteCoin" or (self.is_buy and self.market_unit == ""))
        )

    @property
    def is_open(self) -> bool:
        """Return whether it can still trade."""
        return self.status in OPEN_STATUSES

    @property
    def filled(self) -> Decimal:
        """Return how much base coin was traded."""
        return total(*(one.size for one in self.executions))

    @property
    def filled_value(self) -> Decimal:
        """Return how much quote coin was traded."""
        return total(*(one.value for one in self.executions))

    @property
    def unfilled(self) -> Decimal:
        """Return what is left of the quantity, in its unit."""
        return self.qty - (self.filled_value if self.in_quote else self.filled)

    @property
    def locked(self) -> Decimal:
        """Return how much of `locked_coin` is set aside."""
        return times(self.unfilled, self.locked_per_unit) if self.is_open else Decimal(0)

    @property
    def fees(self) -> dict[str, Decimal]:
        """Return the fees paid, by coin."""
        paid: dict[str, Decimal] = {}
        for one in self.executions:
            paid[one.fee_coin] = total(paid.get(one.fee_coin, Decimal(0)), one.fee)
        return paid

    def row(self) -> dict[str, Any]:
        """Return the row of the look-ups."""
        leaves = self.unfilled if self.is_open else Decimal(0)
        fees = self.fees
        row = {
            "symbol": self.rules.symbol,
            "orderId": self.order_id,
            "orderLinkId": self.link_id,
            "blockTradeId": "",
            "side": self.side,
            "positionIdx": self.position_idx,
            "orderStatus": self.status,
            "cancelType": self.cancel_type,
            "rejectReason": self.reject_reason,
            "timeInForce": self.time_in_force,
            "cumExecQty": plain(self.filled),
            "cumExecFee": plain(total(*fees.values())),
            "orderType": self.order_type,
            "stopOrderType": "",
            "orderIv": "",
            "triggerBy": "",
            "tpTriggerBy": "",
            "slTriggerBy": "",
            "triggerDirection": 0,
            "placeType": "",
            "lastPriceOnCreated": plain(self.last_price),
            "closeOnTrigger": False,
            "reduceOnly": self.reduce_only,
            "smpGroup": 0,
            "smpType": "None",
            "smpOrderId": "",
            "marketUnit": self.market_unit,
            "createdTime": str(self.created_ms),
            "updatedTime": str(self.updated_ms),
            "slippageToleranceType": self.slippage[0],
            "slippageTolerance": self.slippage[1],
            "cumFeeDetail": {coin: plain(fee) for coin, fee in fees.items()},
        }
        return row | (self._spot(leaves) if self.category == "spot" else self._linear(leaves))

    def _spot(self, leaves: Decimal) -> dict[str, Any]:
        rules = self.rules
        quantity = Decimal("0.000001") if self.in_quote else rules.step
        no_price = padded(Decimal(0), rules.tick)
        # What is left over of an amount in quote coin shows where it was not enough for one more step.
        rest = self.qty - self.filled_value if self.in_quote else times(leaves, self.price)
        return {
            "isLeverage": "1" if self.is_leverage else "0",
            "price": plain(self.price),
            "qty": padded(self.qty, quantity),
            "avgPrice": self._average() if self.executions else "",
            "leavesQty": plain(leaves),
            "leavesValue": padded(rest, rules.quote_step),
            "cumExecValue": padded(self.filled_value, rules.quote_step),
            "triggerPrice": no_price,
            "takeProfit": no_price,
            "stopLoss": no_price,
            "slLimitPrice": no_price,
            "tpLimitPrice": no_price,
            "feeCurrency": self.executions[0].fee_coin if self.executions else "",
            "rpiTakerAccess": False,
            "rpiMatchedQty": "0",
        }

    def _linear(self, leaves: Decimal) -> dict[str, Any]:
        return {
            "isLeverage": "",
            "price": plain(self.price),
            "qty": plain(self.qty),
            "avgPrice": self._average() if self.executions else "",
            "leavesQty": plain(leaves),
            "leavesValue": plain(times(leaves, self.price)),
            "cumExecValue": plain(self.filled_value),
            "triggerPrice": "",
            "takeProfit": "",
            "stopLoss": "",
            "slLimitPrice": "0",
            "tpLimitPrice": "0",
            "tpslMode": "UNKNOWN",
            "createType": "CreateByUser",
            "feeCurrency": "",
            "slippageTolerance": self.slippage[1] or "0",
            "closedPnl": plain(total(*(one.profit for one in self.executions))),
        }

    def _average(self) -> str:
        return plain(to_satoshi(self.filled_value / self.filled))

    def push(self) -> dict[str, Any]:
        """Return the row of the `order` topic."""
        return {"category": self.category, **self.row()}


def execution_row(order: Order, execution: Execution) -> dict[str, Any]:
    """Return the row of `/v5/execution/list`."""
    linear = order.category == "linear"
    return {
        "symbol": order.rules.symbol,
        "closedSize": plain(execution.closed) if linear else "",
        "execFee": plain(execution.fee),
        "execId": execution.exec_id,
        "execPrice": plain(execution.price),
        "execQty": plain(execution.size),
        "execType": execution.kind,
        "execValue": plain(execution.value),
        "feeRate": plain(execution.fee_rate),
        "tradeIv": "",
        "markIv": "",
        "blockTradeId": "",
        "markPrice": plain(execution.price) if linear else "",
        "indexPrice": "",
        "underlyingPrice": "",
        "leavesQty": plain(execution.leaves),
        "orderId": order.order_id,
        "orderLinkId": order.link_id,
        "orderPrice": plain(order.price),
        "orderQty": plain(order.qty),
        "orderType": order.order_type,
        "stopOrderType": "UNKNOWN" if linear else "",
        "side": order.side,
        "execTime": str(execution.time_ms),
        "isLeverage": "1" if order.is_leverage else "0",
        "isMaker": False,
        "seq": execution.seq,
        "marketUnit": order.market_unit,
        "execPnl": plain(execution.profit) if linear else "",
        **({"createType": "CreateByUser"} if linear else {}),
        "extraFees": _extra_fees(execution),
        "feeCurrency": execution.fee_coin,
    }


def _extra_fees(execution: Execution) -> str | list[dict[str, str]]:
    """Return the taxes of an execution as a list, "" where there are none."""
    if not execution.extra_fee:
        return ""
    return [
        {
            "feeCoin": execution.fee_coin,
            "feeType": "GST",
            "subFeeType": "IND_GST",
            "feeRate": plain(execution.extra_rate),
            "fee": plain(execution.extra_fee),
        }
    ]


def fast_row(order: Order, execution: Execution) -> dict[str, Any]:
    """Return the row of `execution.fast` (https://bybit-exchange.github.io/docs/v5/websocket/private/fast-execution)."""
    return {
        "category": order.category,
        "symbol": order.rules.symbol,
        "execId": execution.exec_id,
        "execPrice": plain(execution.price),
        "execQty": plain(execution.size),
        "orderId": order.order_id,
        "isMaker": False,
        "orderLinkId": order.link_id,
        "side": order.side,
        "execTime": str(execution.time_ms),
        "seq": execution.seq,
    }
