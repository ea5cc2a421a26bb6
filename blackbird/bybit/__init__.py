"""Bybit: public streams and REST orders."""
