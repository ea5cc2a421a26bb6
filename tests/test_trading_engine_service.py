"""The trading engine as a process, on the real broker and database."""

from __future__ import annotations

from decimal import Decimal

from tests.workspace import Workspace, wait_for

ORDER = {
    "order_id": "first",
    "action": "Open Spread",
    "spread_id": "s1",
    "buy": ["linear", "BTCPERP"],
    "buy_price": 61800.3,
    "sell": ["spot", "BTCUSDT"],
    "sell_price": 61837.63,
    "size": 0.25,
    "ts_buy": 1723161256298,
    "ts_sell": 1723161256208,
}


def test_acked_order_is_two_rows(place: Workspace) -> None:
    place.start_engine()
    assert place.ask(ORDER) == {"status": "ACK", "info": "order placed"}
    rows = wait_for(lambda: place.query('SELECT type, flux FROM bybit."order" ORDER BY type'))
    assert rows == [("buy", Decimal("-15450.075")), ("sell", Decimal("15459.4075"))]
    assert place.ask({"action": "List Open Spreads"})["open_spreads"] == [
        {
            "spread_id": "s1",
            "long": ["linear", "BTCPERP"],
            "short": ["spot", "BTCUSDT"],
            "spread": Decimal("37.33"),
            "quantity": Decimal("0.25"),
        }
    ]
