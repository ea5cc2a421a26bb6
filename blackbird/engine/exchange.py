"""What the trading engine needs of an exchange that it sends real orders to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Protocol

from blackbird.market.instrument import Instrument
from blackbird.trading.instrument_rules import InstrumentRules
from blackbird.trading.leg_order import Fill, Final, LegOrder, LegRefused, NotFound, Side, Taken, Unknown
from blackbird.trading.sizing import MarginTerms

Pushed = Taken | Fill | Final
Found = Taken | Fill | Final | NotFound
OnEvent = Callable[[Pushed], None]


class LegOrders(Protocol):
    """Sends orders, within the exchange's rate limits."""

    def take_room(self, legs: Iterable[Instrument]) -> bool:
        """Return whether an order of each leg may be sent now; they count as sent."""

    async def wait_for_room(self, legs: Iterable[Instrument]) -> None:
        """Wait until an order of each leg may be sent; they count as sent."""

    async def send(self, order: LegOrder, expires_at: int | None) -> Taken | LegRefused | Unknown:
        """Send an order that the exchange must not take after `expires_at` (ms); raises nothing."""


class Account(Protocol):
    """What is known of the account, and what the exchange says when it is asked."""

    async def prepare(self, instrument: Instrument) -> InstrumentRules:
        """Return the rules of an instrument; raises Refused where it can't be traded, or LookUpFailed."""

    def base_fee(self, instrument: Instrument) -> Decimal:
        """Return the fraction of what is bought that is kept as a fee."""

    def balance(self, coin: str) -> Decimal:
        """Return how much of a coin is free and not reserved."""

    def margin(self, instrument: Instrument, side: Side) -> MarginTerms | None:
        """Return what an order needs of the balance of `MARGIN`, None where that is not known."""

    def doubt(self) -> None:
        """Have what the account has asked for again, soon."""

    def reserve(self, trade_id: str, coins: Mapping[str, Decimal]) -> None:
        """Set aside what a trade may spend, until `release`."""

    def release(self, trade_id: str) -> None:
        """Set aside nothing more for a trade."""

    async def look_up(self, link_id: str, instrument: Instrument) -> Sequence[Found]:
        """Return what the exchange knows of an order; raises LookUpFailed."""


class Exchange(Protocol):
    """One account at an exchange; what is pushed of our orders goes to the OnEvent that it was made with."""

    @property
    def legs(self) -> LegOrders:
        """Where orders are sent."""

    @property
    def account(self) -> Account:
        """The account that they trade on."""

    def trouble(self) -> str | None:
        """Return why no spread can be opened now, None where it can."""

    def was_down_since(self, milliseconds: int) -> bool:
        """Return whether pushes may have been missed since then."""

    async def wait_until_connected(self, seconds: float) -> bool:
        """Return whether pushes arrive, as soon as they do, after `seconds` at the latest."""

    async def run(self) -> None:
        """Stay connected, until cancelled."""


class Connect(Protocol):
    """Connects to an account."""

    def __call__(self, *, link_prefix: str, on_event: OnEvent) -> Exchange:
        """Return the account; the link ids of our orders begin with `link_prefix`."""
