"""Where orders go: simulated, or to which of Bybit's environments, and which settings must not go together.

Hosts: https://bybit-exchange.github.io/docs/v5/guide#authentication, .../v5/ws/connect, .../v5/demo.
"""

from __future__ import annotations

import ipaddress
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

# Bybit is under another domain in some countries.
MAINNET_DOMAINS = (
    *("bybit.com", "bytick.com", "bybit.eu", "bybit.nl", "bybit-tr.com", "bybit.kz", "bybitgeorgia.ge"),
    *("bybit.ae", "bybit.id"),
)
REST_HOSTS = {
    "demo": ("api-demo.bybit.com",),
    "testnet": ("api-testnet.bybit.com",),
    "mainnet": tuple(f"api.{domain}" for domain in MAINNET_DOMAINS),
}
_MAINNET_STREAMS = tuple(f"stream.{domain}" for domain in MAINNET_DOMAINS)
# Demo trading has the market data of mainnet.
PUBLIC_STREAM_HOSTS = {
    "demo": _MAINNET_STREAMS,
    "testnet": ("stream-testnet.bybit.com",),
    "mainnet": _MAINNET_STREAMS,
}
PRIVATE_PATH = "/v5/private"

SIMULATED = "simulated"
REAL = "real"


class UnsafeOrders(Exception):
    """The settings would send orders where they should not go; the text names the setting."""


class OrderMode(NamedTuple):
    """Whether orders are simulated or real, and where real ones go. Its text is for the log.

    `ws_url` is the base of the public streams, empty for that of the environment.
    """

    kind: str  # SIMULATED or REAL
    environment: str
    rest_url: str
    ws_url: str = ""
    real_money: bool = False

    @classmethod
    def of(
        cls, *, real: bool, environment: str, rest_url: str, ws_url: str = "", real_money: bool = False
    ) -> OrderMode:
        """Return the mode by the settings; an empty `rest_url` is that of the environment."""
        return cls(
            REAL if real else SIMULATED,
            environment,
            rest_url or f"https://{REST_HOSTS[environment][0]}",
            ws_url,
            real_money,
        )

    @property
    def is_real(self) -> bool:
        """Return whether orders go to an exchange."""
        return self.kind == REAL

    @property
    def private_url(self) -> str:
        """Return the URL of the account's stream, which goes with the REST interface."""
        host = urlsplit(self.rest_url).hostname or ""
        if _is_local(host):
            return self.ws_url + PRIVATE_PATH
        return f"wss://stream{host.removeprefix('api')}{PRIVATE_PATH}"

    @property
    def name(self) -> str:
        """SIMULATED, or the environment that orders go to."""
        return self.environment if self.is_real else SIMULATED

    def __str__(self) -> str:
        if not self.is_real:
            return "SIMULATED ORDERS"
        # Without user and password, should the URL have them.
        return f"REAL ORDERS to {urlsplit(self.rest_url).netloc.rpartition('@')[2]}"

    def check(self) -> None:
        """Raise UnsafeOrders where real orders would cost money, or follow the prices of another market."""
        if not self.is_real:
            return
        if self.environment == "mainnet" and not self.real_money:
            raise UnsafeOrders(
                "REAL_MONEY: expected true for real orders in BYBIT_ENVIRONMENT mainnet, was false"
            )
        rest = self._place("BYBIT_REST_URL", self.rest_url, "https", REST_HOSTS)
        streams = self._place("BYBIT_WS_URL", self.ws_url, "wss", PUBLIC_STREAM_HOSTS)
        if rest != streams:
            raise UnsafeOrders(
                "BYBIT_REST_URL, BYBIT_WS_URL: expected orders and market data of the same exchange with"
                f" REAL_ORDER_SENDING, was {rest} for orders and {streams} for market data"
            )

    def _place(
        self, setting: str, url: str, scheme: str, hosts: dict[str, tuple[str, ...]]
    ) -> Literal["Bybit", "a local exchange"]:
        """Return whose server a URL is; raises UnsafeOrders for any but the environment's and local ones."""
        host = urlsplit(url).hostname or ""
        if url and _is_local(host):
            return "a local exchange"
        expected = hosts[self.environment]
        if url and (host not in expected or urlsplit(url).scheme != scheme):
            raise UnsafeOrders(
                f"{setting}: expected {scheme}://{expected[0]} for BYBIT_ENVIRONMENT {self.environment} with"
                f" REAL_ORDER_SENDING, or a local host, was {urlsplit(url).scheme}://{host}"
            )
        return "Bybit"


def _is_local(host: str) -> bool:
    """Return whether `host` is an address of a private network, or a name without a domain."""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host
