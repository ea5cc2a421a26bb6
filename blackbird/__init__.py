"""Blackbird, a spread-trading system on Bybit: everything but the services, the settings and the database."""

__version__ = "0.2.0"
