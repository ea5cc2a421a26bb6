"""What a backtest can be told to do differently: the settings of both engines, in one value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal

from blackbird.market.decimals import ZERO
from blackbird.trading.engine import TradingEngine
from blackbird.trading.pair_checks import Limits
from blackbird.trading.risk import RiskModel
from blackbird.trading.signal import Signal
from blackbird.trading.spread_rules import CloseRule, SpreadRules

Clock = Callable[[], int]


@dataclass(frozen=True)
class Parameters:
    """The rules of one run. Fees are fractions of an order's value, by channel; a missing one is 0."""

    limit: Decimal = Decimal(1_000_000)
    risk_model: RiskModel = "cash"
    close_rule: CloseRule = "seed"
    taker_fees: dict[str, Decimal] = field(default_factory=dict)
    min_profit_bps: Decimal = ZERO
    limits: Limits = field(default_factory=Limits)
    order_timeout_ms: int = 2000
    unique_order: bool = True
    consecutive: bool = True

    def new_signal(self, clock: Clock) -> Signal:
        """Return a signal core with these rules; `clock` returns milliseconds since 1970."""
        rules = SpreadRules(
            close_rule=self.close_rule, taker_fees=self.taker_fees, min_profit_bps=self.min_profit_bps
        )
        return Signal(
            clock=clock,
            order_timeout_ms=self.order_timeout_ms,
            limits=self.limits,
            rules=rules,
            consecutive=self.consecutive,
        )

    def new_engine(self, clock: Clock) -> TradingEngine:
        """Return a simulating trading engine with these rules; `clock` returns milliseconds since 1970."""
        return TradingEngine(
            limit=self.limit,
            unique_order=self.unique_order,
            clock=clock,
            risk_model=self.risk_model,
            fee_rates=self.taker_fees if any(self.taker_fees.values()) else None,
        )
