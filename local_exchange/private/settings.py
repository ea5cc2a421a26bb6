"""What the private side is started with."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

# Orders a second of each category that the default level allows
# (https://bybit-exchange.github.io/docs/v5/rate-limit).
ORDERS_PER_SECOND = {"linear": 10, "spot": 20}
# Taker fees of VIP 0 as fractions of what is traded.
TAKER_FEES = {"linear": Decimal("0.00055"), "spot": Decimal("0.001")}


def _start_balances() -> dict[str, Decimal]:
    return {"USDT": Decimal(100_000), "USDC": Decimal(100_000), "BTC": Decimal(1), "ETH": Decimal(10)}


@dataclass(frozen=True)
class PrivateSettings:
    """The account, and how it is treated.

    Args:
        api_key: the one key that is known.
        api_secret: its secret.
        balances: wallet at the start, by coin.
        taker_fees: by category, as fractions.
        leverage: of every position.
        fill_delay: seconds from accepting an order to matching it, shortest and longest.
        push_delay: seconds from a match to its pushes, shortest and longest.
        orders_per_second: by category; 0: as many as come.
        lookups_per_second: of each look-up; 0: as many as come.
        ip_requests: HTTP requests in 5 seconds before 403; 0: as many as come.
        spot_margin: whether spot margin trading is switched on, so that `isLeverage` 1 borrows.
        seed: of the delays and of the forms in which fills are pushed.
    """

    api_key: str = "local-key"
    api_secret: str = "local-secret"  # noqa: S105 - of an exchange on this machine
    balances: dict[str, Decimal] = field(default_factory=_start_balances)
    taker_fees: dict[str, Decimal] = field(default_factory=TAKER_FEES.copy)
    leverage: Decimal = Decimal(10)
    fill_delay: tuple[float, float] = (0.001, 0.008)
    push_delay: tuple[float, float] = (0.001, 0.005)
    orders_per_second: dict[str, int] = field(default_factory=ORDERS_PER_SECOND.copy)
    lookups_per_second: int = 50
    ip_requests: int = 600
    spot_margin: bool = False
    seed: int = 1
