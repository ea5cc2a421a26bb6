"""Trades a stored market with the rules of the live system, and shows what it would have earned."""

from __future__ import annotations

import sys

from blackbird.archive.command import ArchiveSetting
from blackbird.backtest.command import main
from blackbird.backtest.parameters import Parameters
from blackbird.trading.pair_checks import Limits
from config import Config, changed_settings, check_settings
from database_manager import DatabaseManager


def parameters() -> Parameters:
    """Return the settings of signal engine and trading engine."""
    return Parameters(
        limit=Config.MAX_RISK_OPEN_POSITION,
        risk_model=Config.RISK_MODEL,
        close_rule=Config.CLOSE_RULE,
        taker_fees={"spot": Config.TAKER_FEE_SPOT, "linear": Config.TAKER_FEE_LINEAR},
        min_profit_bps=Config.MIN_PROFIT_BPS,
        limits=Limits(
            stale_after_ms=Config.MAX_BOOK_AGE_MS,
            max_lag_ms=Config.MAX_LAG_MS,
            max_book_lag_ms=Config.MAX_BOOK_LAG_MS,
            max_price_ratio=Config.MAX_PRICE_RATIO,
        ),
        order_timeout_ms=Config.ORDER_TIMEOUT_MS,
        unique_order=Config.UNIQUE_ORDER,
        consecutive=Config.CONSECUTIVE_UPDATES,
    )


if __name__ == "__main__":
    check_settings()
    database = DatabaseManager("backtest", Config.DB_CONFIG)
    archive = ArchiveSetting.of(Config.ARCHIVE_PATH)
    sys.exit(main(parameters(), changed_settings(), database, archive))
