"""Wallets and positions as REST and the private stream show them.

Fields: https://bybit-exchange.github.io/docs/v5/account/wallet-balance,
https://bybit-exchange.github.io/docs/v5/position,
https://bybit-exchange.github.io/docs/v5/websocket/private/position and .../wallet.
Both hold numbers as text, and some are empty where they do not apply.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from local_exchange.private.decimals import plain, to_satoshi

if TYPE_CHECKING:
    from local_exchange.private.accounts import Account, Position

MAINTENANCE_RATE = Decimal("0.005")


def wallet_row(account: Account, coin: str, locked: Decimal) -> dict[str, Any]:
    """Return the row of one coin; `locked` is what open spot orders hold."""
    wallet = account.wallet(coin)
    borrowed = wallet.spot_borrow + max(Decimal(0), -wallet.balance)
    return {
        "coin": coin,
        "equity": plain(wallet.balance - wallet.spot_borrow),
        "usdValue": plain(to_satoshi((wallet.balance - wallet.spot_borrow) * account.prices.dollars(coin))),
        "walletBalance": plain(wallet.balance),
        "availableToWithdraw": "",
        "availableToBorrow": "",
        "borrowAmount": plain(borrowed),
        "accruedInterest": "0",
        "totalOrderIM": "0",
        "totalPositionIM": "0",
        "totalPositionMM": "0",
        "unrealisedPnl": "0",
        "cumRealisedPnl": plain(wallet.realised),
        "bonus": "0",
        "collateralSwitch": True,
        "marginCollateral": True,
        "locked": plain(locked),
        "spotHedgingQty": "0",
        "spotBorrow": plain(wallet.spot_borrow),
    }


def account_row(account: Account, coins: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the whole account with the rows of these coins."""
    open_result = sum((account.unrealised(one) for one in account.positions.values()), Decimal(0))
    equity, margin = account.equity(), account.initial_margin()
    maintenance = sum((account.value(one) for one in account.positions.values()), Decimal(0))
    maintenance *= MAINTENANCE_RATE
    figures = {
        "totalEquity": equity,
        "totalWalletBalance": equity - open_result,
        "totalMarginBalance": equity,
        "totalAvailableBalance": equity - margin,
        "totalPerpUPL": open_result,
        "totalInitialMargin": margin,
        "totalMaintenanceMargin": maintenance,
        "totalInitialMarginByMp": margin,
        "totalMaintenanceMarginByMp": maintenance,
    }
    rates = {"accountIMRate": margin, "accountMMRate": maintenance}
    return {
        **{name: plain(to_satoshi(figure)) for name, figure in figures.items()},
        **{name: _rate(part, equity) for name, part in rates.items()},
        **{f"{name}ByMp": _rate(part, equity) for name, part in rates.items()},
        "accountLTV": "0",
        "accountType": "UNIFIED",
        "coin": coins,
    }


def _rate(part: Decimal, equity: Decimal) -> str:
    return plain((part / equity).quantize(Decimal("0.0001"))) if equity > 0 else "0"


def position_row(account: Account, position: Position) -> dict[str, Any]:
    """Return the row of `/v5/position/list`; a flat position has `side` "" and size "0"."""
    size, mark = abs(position.size), account.prices.last("linear", position.symbol)
    margin = size * mark / account.settings.leverage
    return {
        "positionIdx": position.idx,
        "riskId": 1,
        "riskLimitValue": "2000000",
        "symbol": position.symbol,
        "side": position.side,
        "size": plain(size),
        "avgPrice": plain(position.average),
        "positionValue": plain(to_satoshi(abs(position.cost))),
        "tradeMode": 1 if account.isolated else 0,
        "positionStatus": "Normal",
        "autoAddMargin": 0,
        "adlRankIndicator": 2 if size else 0,
        "leverage": plain(account.settings.leverage),
        "breakEvenPrice": "",
        "positionBalance": "0",
        "markPrice": plain(mark),
        "liqPrice": "",
        "bustPrice": "",
        "positionMM": plain(to_satoshi(size * mark * MAINTENANCE_RATE)),
        "positionMMByMp": plain(to_satoshi(size * mark * MAINTENANCE_RATE)),
        "positionIM": plain(to_satoshi(margin)),
        "positionIMByMp": plain(to_satoshi(margin)),
        "tpslMode": "Full",
        "takeProfit": "",
        "stopLoss": "",
        "trailingStop": "0",
        "unrealisedPnl": plain(to_satoshi(account.unrealised(position))) if size else "",
        "curRealisedPnl": plain(position.realised),
        "cumRealisedPnl": plain(position.realised),
        "seq": position.seq,
        "isReduceOnly": False,
        "mmrSysUpdateTime": "",
        "leverageSysUpdatedTime": "",
        "sessionAvgPrice": "" if position.session_price is None else plain(position.session_price),
        "createdTime": str(position.created_ms),
        "updatedTime": str(position.updated_ms),
    }


def position_push(account: Account, position: Position) -> dict[str, Any]:
    """Return the row of the `position` topic: `entryPrice` in the place of `avgPrice`, and the category."""
    row = position_row(account, position)
    row["entryPrice"] = row.pop("avgPrice")
    row["mmrSysUpdatedTime"] = row.pop("mmrSysUpdateTime")
    return row | {"category": "linear"}
