"""Parts of the market data collector."""
