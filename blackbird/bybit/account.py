"""The exchange's account: what is pushed of our orders, and what is found when it is asked.

Fills and ends of orders come by the private stream within milliseconds, each fill once. What may have been
missed is looked up; an error of a look-up is an error, never "not found".
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from blackbird.bybit.account_rows import (
    FORCED,
    TRADE,
    InvalidRow,
    Position,
    Row,
    base_fee_rate,
    read_fill,
    read_free_margin,
    read_order,
    read_position,
    read_wallets,
)
from blackbird.bybit.look_ups import LookUpFailed, LookUps
from blackbird.bybit.margin import Margin
from blackbird.bybit.rest import RestError
from blackbird.bybit.rules_book import RulesBook
from blackbird.market.decimals import EXACT, ZERO
from blackbird.market.instrument import Instrument
from blackbird.trading.instrument_rules import InstrumentRules, not_tradable
from blackbird.trading.leg_order import BUY, Fill, Final, NotFound, Side, Taken
from blackbird.trading.orders import Refused
from blackbird.trading.sizing import MARGIN, MarginTerms

logger = logging.getLogger(__name__)

# Fills that are remembered, so that each is handed out once.
REMEMBERED_FILLS = 100_000
HEDGE_MODE = "the account is in hedge mode for it: switch it to one-way mode"

Pushed = Taken | Fill | Final
OnEvent = Callable[[Pushed], None]


class Account:
    """What is known of the account; orders of ours begin with `link_prefix`.

    `on_event` gets what is pushed of them, `on_missed` the exchange's time of a fill that a look-up has
    found and that was not pushed, `on_doubt` has `refresh` called soon. `base_fee` is the fraction that a
    spot buy is believed to pay in what it buys, before the first fill has said it.
    """

    def __init__(
        self,
        look_ups: LookUps,
        rules: RulesBook,
        *,
        link_prefix: str,
        base_fee: Decimal,
        on_event: OnEvent,
        on_missed: Callable[[int], None] = lambda _: None,
        on_doubt: Callable[[], None] = lambda: None,
    ) -> None:
        self.on_event = on_event
        self._on_missed = on_missed
        self._on_doubt = on_doubt
        self._look_ups = look_ups
        self._rules = rules
        self._link_prefix = link_prefix
        self._base_fee = base_fee
        self._base_fees: dict[Instrument, Decimal] = {}
        self._wallets: dict[str, Decimal] = {}
        self._wallets_at = 0  # the exchange's ms
        self._margin = Margin()
        self._in_hedge_mode: set[str] = set()
        self._reserved: dict[str, Mapping[str, Decimal]] = {}
        self._seen_fills: dict[str, None] = {}

    # --- what is known -----------------------------------------------------------------------

    def rules(self, instrument: Instrument) -> InstrumentRules | None:
        """Return the rules of an instrument, once they are known."""
        return self._rules.get(instrument)

    def base_fee(self, instrument: Instrument) -> Decimal:
        """Return the fraction that a spot buy pays in what it buys, as its last fill paid it."""
        return self._base_fees.get(instrument, self._base_fee) if instrument.channel == "spot" else ZERO

    def balance(self, coin: str) -> Decimal:
        """Return how much of a coin is free: in the wallet, and not reserved by a trade that runs.

        That of `MARGIN` is in USD.
        """
        free = self._margin.free or ZERO if coin == MARGIN else self._wallets.get(coin, ZERO)
        for coins in self._reserved.values():
            free = EXACT.subtract(free, coins.get(coin, ZERO))
        return free

    def reserve(self, trade_id: str, coins: Mapping[str, Decimal]) -> None:
        """Set aside what a trade may spend of each coin, until `release`."""
        self._reserved[trade_id] = coins

    def release(self, trade_id: str) -> None:
        """Set aside nothing more for a trade."""
        self._reserved.pop(trade_id, None)

    def position(self, instrument: Instrument) -> Decimal:
        """Return the position of a perpetual in base coin as it was pushed last, below zero where short."""
        return self._margin.positions.get(instrument.symbol, ZERO)

    def margin(self, instrument: Instrument, side: Side) -> MarginTerms | None:
        """Return what an order needs of the free margin, None where that is not known."""
        return self._margin.terms(instrument, side)

    def doubt(self) -> None:
        """Have what the account has asked for again, soon: an order was refused for it."""
        self._on_doubt()

    # --- asking ------------------------------------------------------------------------------

    async def prepare(self, instrument: Instrument) -> InstrumentRules:
        """Learn what an order of the instrument needs; quick once it is known.

        Raises Refused with the reply's text where no order can be sent, LookUpFailed where the exchange does
        not answer.
        """
        try:
            rules = await self._rules.require(instrument)
            if instrument.channel == "linear" and instrument.symbol not in self._margin.positions:
                for position in await self._look_ups.positions(instrument.symbol):
                    self._take_position(position)
        except RestError as error:
            raise LookUpFailed(str(error)) from None
        if instrument.symbol in self._in_hedge_mode and instrument.channel == "linear":
            # Asked again by the next order: the mode can be switched.
            self._in_hedge_mode.discard(instrument.symbol)
            self._margin.forget(instrument.symbol)
            raise Refused(not_tradable(instrument, HEDGE_MODE))
        return rules

    def refresh_rules(self, instrument: Instrument) -> None:
        """Learn the instrument's rules and position mode anew: the exchange has refused an order for them."""
        self._rules.refresh(instrument)
        self._margin.forget(instrument.symbol)

    async def look_up(self, link_id: str, instrument: Instrument) -> list[Taken | Fill | Final | NotFound]:
        """Return what the exchange knows of an order, its fills included that were pushed before.

        `[NotFound]` where all look-ups have answered that there is no such order. Raises LookUpFailed.
        """
        found = await self._look_ups.order(link_id, instrument, self._settle_coin(instrument))
        for row in found.fill_rows:
            self._learn_base_fee(row, instrument)
        for event in found.events:
            if isinstance(event, Fill) and event.exec_id not in self._seen_fills:
                self._on_missed(event.time)
        return list(found.events)

    async def refresh(self) -> None:
        """Ask for what pushes may have been missed of: wallets and known positions; raises RestError."""
        balances = await self._look_ups.balances()
        self._wallets = {wallet.coin: wallet.free for wallet in balances.wallets}
        self._margin.free = balances.free_margin
        for symbol in list(self._margin.positions):
            for position in await self._look_ups.positions(symbol):
                self._take_position(position)

    # --- what is pushed ----------------------------------------------------------------------

    def on_rows(self, topic: str, rows: list[dict[str, Any]], pushed_at: int) -> None:
        """Take the rows of a message of the private stream."""
        take = {
            "order": self._on_order,
            "execution": self._on_execution,
            "position": self._on_position,
            "wallet": lambda row: self._on_wallet(row, pushed_at),
        }.get(topic.partition(".")[0])
        for row in rows if take is not None else ():
            try:
                take(row)  # type: ignore[misc]  # not None, see above
            except InvalidRow as error:
                logger.error("private stream, topic %s: ignoring a row: %s", topic, error)

    def _on_order(self, row: Row) -> None:
        if self._is_ours(row):
            self.on_event(read_order(row))

    def _on_execution(self, row: Row) -> None:
        kind = row.get("execType")
        if kind in FORCED:
            logger.error(
                "position changed from outside: %s %s %s %s",
                *(row.get(name) for name in ("symbol", "execType", "side", "execQty")),
            )
        if kind != TRADE or not self._is_ours(row):
            # Funding and settlements are cash, not fills.
            return
        instrument = Instrument(str(row.get("category")), str(row.get("symbol")))
        fill = read_fill(row, instrument.channel, self._settle_coin(instrument))
        if fill.exec_id in self._seen_fills:
            return
        self._seen_fills[fill.exec_id] = None
        if len(self._seen_fills) > REMEMBERED_FILLS:
            del self._seen_fills[next(iter(self._seen_fills))]
        self._learn_base_fee(row, instrument)
        self.on_event(fill)

    def _on_position(self, row: Row) -> None:
        if row.get("category") == "linear":
            self._take_position(read_position(row))

    def _on_wallet(self, row: Row, pushed_at: int) -> None:
        if pushed_at < self._wallets_at:
            return
        self._wallets_at = pushed_at
        self._wallets.update({wallet.coin: wallet.free for wallet in read_wallets(row)})
        self._margin.free = read_free_margin(row)

    def _take_position(self, position: Position) -> None:
        if position.idx != 0:
            self._in_hedge_mode.add(position.symbol)
        self._margin.take(position)

    def _is_ours(self, row: Row) -> bool:
        link_id = row.get("orderLinkId")
        return isinstance(link_id, str) and link_id.startswith(self._link_prefix)

    def _settle_coin(self, instrument: Instrument) -> str:
        rules = self._rules.get(instrument)
        if rules is not None:
            return rules.settle
        return "USDT" if instrument.symbol.endswith("USDT") else "USDC"

    def _learn_base_fee(self, row: Row, instrument: Instrument) -> None:
        rules = self._rules.get(instrument)
        if instrument.channel == "spot" and row.get("side") == BUY and rules is not None:
            self._base_fees[instrument] = base_fee_rate(row, rules.base)
