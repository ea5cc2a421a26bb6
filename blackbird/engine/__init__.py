"""Parts of the trading engine service."""
