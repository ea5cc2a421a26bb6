"""A local stand-in of Bybit's V5 interface: order books on public WebSockets, and one account to trade with.

`python -m local_exchange` is its command. In a test's own event loop:

    async with LocalExchange(SyntheticMarket(rate=0), port=0) as exchange:
        ...  # exchange.url, await exchange.faults.gap(symbol="BTCUSDT"), exchange.counters

As a process of its own, with the control interface as Python methods: `local_exchange.process`.
"""

from local_exchange.replay import RecordingError, Replay
from local_exchange.server import LocalExchange
from local_exchange.synthetic import SyntheticMarket

__all__ = ["LocalExchange", "RecordingError", "Replay", "SyntheticMarket"]
