"""Where orders go: simulated, or to which of Bybit's environments."""

from __future__ import annotations

import ipaddress
from typing import NamedTuple
from urllib.parse import urlsplit

# https://bybit-exchange.github.io/docs/v5/guide#authentication
REST_URLS = {
    "demo": "https://api-demo.bybit.com",
    "testnet": "https://api-testnet.bybit.com",
    "mainnet": "https://api.bybit.com",
}
_PLAY_MONEY_HOSTS = {urlsplit(REST_URLS[environment]).hostname for environment in ("demo", "testnet")}

SIMULATED = "simulated"
REAL = "real"


class RealMoneyRefused(Exception):
    """The settings would send orders with real money, which is not supported yet."""


class OrderMode(NamedTuple):
    """Whether orders are simulated or real, and where real ones go. Its text is for the log."""

    kind: str  # SIMULATED or REAL
    environment: str
    rest_url: str

    @classmethod
    def of(cls, *, real: bool, environment: str, rest_url: str) -> OrderMode:
        """Return the mode by the settings; an empty `rest_url` is that of the environment."""
        return cls(REAL if real else SIMULATED, environment, rest_url or REST_URLS[environment])

    @property
    def is_real(self) -> bool:
        """Return whether orders go to an exchange."""
        return self.kind == REAL

    def __str__(self) -> str:
        if not self.is_real:
            return "SIMULATED ORDERS"
        # Without user and password, should the URL have them.
        return f"REAL ORDERS to {urlsplit(self.rest_url).netloc.rpartition('@')[2]}"

    def check_no_real_money(self) -> None:
        """Raise RealMoneyRefused where orders would go to a host that trades real money."""
        if not self.is_real:
            return
        host = urlsplit(self.rest_url).hostname or ""
        if self.environment == "mainnet":
            raise RealMoneyRefused(
                "REAL_ORDER_SENDING: expected demo or testnet as BYBIT_ENVIRONMENT with it, was mainnet: "
                "real money is not supported yet"
            )
        if host not in _PLAY_MONEY_HOSTS and not _is_local(host):
            raise RealMoneyRefused(
                "BYBIT_REST_URL: expected demo, testnet or a local host with REAL_ORDER_SENDING, "
                f"was {host!r}: real money is not supported yet"
            )


def _is_local(host: str) -> bool:
    """Return whether `host` is an address of a private network, or a name without a domain."""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host
