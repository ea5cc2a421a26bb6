"""Backtests: stored markets through the signal engine and the trading engine, without a broker."""
