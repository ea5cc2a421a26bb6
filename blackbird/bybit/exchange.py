"""The exchange as the trading engine uses it with real orders: everything about one account, composed."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from blackbird.bybit.account import Account, OnEvent
from blackbird.bybit.connection import Connector
from blackbird.bybit.leg_orders import LegOrders
from blackbird.bybit.look_ups import LookUps
from blackbird.bybit.private_stream import PING_SECONDS, Connect, PrivateStream
from blackbird.bybit.rest import Credentials, Rest, RestError
from blackbird.bybit.rules_book import RulesBook
from blackbird.bybit.server_clock import ServerClock
from blackbird.runtime.backoff import Backoff
from blackbird.runtime.clock import milliseconds

logger = logging.getLogger(__name__)

# A stream that is down for longer may have missed so much that no new trade is begun.
LONGEST_GAP_MS = 5000
# A fill that was not pushed after so long on a stream that is up will not be.
LONGEST_PUSH_MS = 1000
# What is free of the margin changes with prices, which is not pushed: asked for this often at most.
LEAST_ASKING_MS = 5000
# https://www.bybit.com/en/help-center/article/Trading-Fee-Structure; a buy that is sent too small for its fee
# leaves its trade unequal.
VIP_0_SPOT_FEE = Decimal("0.001")


@dataclass(frozen=True)
class ExchangeUrls:
    """Where the account's REST interface and its private stream are."""

    rest: str
    private: str


class Exchange:
    """One account: `legs` sends orders, `account` knows and is asked. `run` keeps both up to date.

    `link_prefix` is how the link ids of our orders begin, `base_fee` what is believed of spot buys before the
    first one, `now` returns this machine's milliseconds since 1970.
    """

    def __init__(
        self,
        urls: ExchangeUrls,
        credentials: Credentials,
        connect: Connect,
        *,
        link_prefix: str,
        base_fee: Decimal,
        orders_per_second: Mapping[str, int],
        now: Callable[[], int],
        on_event: OnEvent = lambda _: None,
    ) -> None:
        self._rest = Rest(urls.rest, credentials)
        self._clock = ServerClock(self._rest, now)
        self._rules = RulesBook(self._rest)
        self.account = Account(
            LookUps(self._rest),
            self._rules,
            link_prefix=link_prefix,
            base_fee=base_fee,
            on_event=on_event,
            on_missed=self._on_missed,
            on_doubt=self._on_doubt,
        )
        self._now = now
        self.legs = LegOrders(
            self._rest,
            now=now,
            clock_offset=lambda: self._clock.offset_ms,
            rules=self._rules.get,
            on_rules_refused=self.account.refresh_rules,
            per_second=orders_per_second,
        )
        self.stream = PrivateStream(
            urls.private,
            credentials,
            connect,
            self.account.on_rows,
            now=now,
            clock_offset=lambda: self._clock.offset_ms,
            on_connected=self._on_connected,
        )
        # Set once what the account has was asked for on the present connection of the stream.
        self._refreshed = asyncio.Event()
        self._stale = asyncio.Event()
        self._asked_at = 0

    def trouble(self) -> str | None:
        """Return why no new trade may begin, None where nothing stands against it."""
        if self.stream.down_ms > LONGEST_GAP_MS:
            return "the private stream is down"
        if not self._refreshed.is_set():
            return "what the account has is not known"
        if self._clock.is_off:
            return "the clocks differ"
        return self.legs.trouble

    def was_down_since(self, ms: int) -> bool:
        """Return whether pushes may have been missed since this machine's time `ms`."""
        return self.stream.was_down_since(ms)

    async def wait_until_connected(self, seconds: float) -> bool:
        """Wait for the stream to be subscribed and the wallets to be known; return whether they are."""
        try:
            async with asyncio.timeout(seconds):
                await self._refreshed.wait()
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Keep stream, wallets, rules and clock up to date until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            works: tuple[Callable[[], Any], ...] = (
                self.stream.run,
                self._refresh,
                self._rules.run,
                self._clock.run,
            )
            for work in works:
                tasks.create_task(work())

    def _on_connected(self) -> None:
        self._refreshed.clear()
        self._stale.set()

    def _on_missed(self, fill_time: int) -> None:
        filled_at = fill_time - self._clock.offset_ms
        is_late = self._now() - filled_at > LONGEST_PUSH_MS
        if is_late and not self.stream.was_down_since(filled_at):
            self.stream.replace("a fill was not pushed")

    def _on_doubt(self) -> None:
        now = self._now()
        if not 0 <= now - self._asked_at < LEAST_ASKING_MS:
            self._asked_at = now
            self._stale.set()

    async def _refresh(self) -> None:
        """Ask for what may have been missed, after each connection of the stream and in doubt."""
        backoff = Backoff(0.1, 5)
        while True:
            await self._stale.wait()
            self._stale.clear()
            try:
                await self.account.refresh()
            except RestError as error:
                logger.warning("what the account has is not known: %s", error)
                self._stale.set()
                await asyncio.sleep(backoff.next())
            else:
                backoff.reset()
                self._refreshed.set()


def connect(
    urls: ExchangeUrls,
    credentials: Credentials,
    *,
    ca_file: str,
    spot_fee: Decimal,
    orders_per_second: Mapping[str, int],
    link_prefix: str,
    on_event: OnEvent,
) -> Exchange:
    """Return the exchange at `urls`, still to be run.

    `ca_file` has the authorities that a stream over `wss://` trusts, empty for the system's; `spot_fee`
    is the taker fee that is configured for spot, 0 for that of an account of the lowest level, and
    `orders_per_second` the account's limits by channel.
    """
    tls = ssl.create_default_context(cafile=ca_file or None)
    return Exchange(
        urls,
        credentials,
        Connector(tls, ping_seconds=PING_SECONDS).connect,
        link_prefix=link_prefix,
        base_fee=spot_fee or VIP_0_SPOT_FEE,
        orders_per_second=orders_per_second,
        now=milliseconds,
        on_event=on_event,
    )
