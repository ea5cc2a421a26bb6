"""The signal engine with a programming error in the rules of one pair, as a process of its own."""

from __future__ import annotations

import sys
from decimal import Decimal
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from blackbird.broker.session import connection_parameters
from blackbird.market.instrument import Instrument
from blackbird.runtime.clock import milliseconds
from blackbird.runtime.failure_log import FailureLog
from blackbird.runtime.process import run_service
from blackbird.signals.order_manager import OrderManager
from blackbird.trading.signal import Signal
from blackbird.trading.spread_rules import SpreadRules
from blackbird.trading.spreads import Pair
from config import Config
from signal_service import SignalService

BROKEN = Instrument("linear", "BROKENPERP")


class FailingRules(SpreadRules):
    """The owner's rules, but for pairs that buy BROKEN."""

    def opens(self, pair: Pair, ask: Decimal, bid: Decimal) -> bool:
        if pair.long == BROKEN:
            raise KeyError(BROKEN.symbol)
        return super().opens(pair, ask, bid)


if __name__ == "__main__":
    failures = FailureLog()
    service = SignalService(
        connection_parameters(**Config.BROKER_CONFIG, name="signal engine"),
        Signal(clock=milliseconds, rules=FailingRules()),
        OrderManager(failures),
        failures,
    )
    run_service("signal engine", service.serve)
