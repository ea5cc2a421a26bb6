"""What happens to an account from outside, on demand."""

from __future__ import annotations

import asyncio
import uuid
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING

from local_exchange.fault_rules import FaultError, check_choice, check_numbers
from local_exchange.private.api import ApiError
from local_exchange.private.decimals import EXACT, times, to_satoshi
from local_exchange.private.orders import Execution, Order
from local_exchange.private.rules import STATUSES, InstrumentRules

if TYPE_CHECKING:
    from local_exchange.private.accounts import Position
    from local_exchange.private.exchange import PrivateExchange


class AccountFaults:
    """Events of one account; each happens at once."""

    def __init__(self, exchange: PrivateExchange) -> None:
        self._exchange = exchange

    async def deposit(self, *, coin: str, amount: str) -> int:
        """Add an amount to a wallet; one below zero is a withdrawal."""
        self._exchange.account.wallet(coin).add(_decimal("amount", amount))
        self._publish_wallet([coin])
        return 1

    async def manual_trade(
        self, *, symbol: str, side: str, qty: str, channel: str = "linear", position_idx: int = 0
    ) -> int:
        """Let the owner of the account trade by hand: a market order without a link id."""
        given = {"category": channel, "symbol": symbol, "side": side, "orderType": "Market", "qty": str(qty)}
        extra = {"marketUnit": "baseCoin"} if channel == "spot" else {"positionIdx": position_idx}
        try:
            self._exchange.desk.create({**given, **extra})
        except ApiError as error:
            raise FaultError(f"expected an order that is taken, was {error}") from error
        return 1

    async def funding(self, *, symbol: str, rate: str) -> int:
        """Pay funding of open positions: the long side pays where the rate is above zero.

        https://bybit-exchange.github.io/docs/v5/order/execution: a row of `execType` Funding, whose
        `execFee` is above zero where it was paid, and whose `execQty` is the whole position.
        """
        rules, positions = self._open(symbol)
        share = _decimal("rate", rate)
        for position in positions:
            mark = self._exchange.prices.last("linear", symbol)
            fee = to_satoshi(times(times(position.size, mark), share))
            self._exchange.account.settle(position, rules.quote, -fee)
            self._execute(rules, position, "Funding", position.side, abs(position.size), fee=fee, rate=share)
        return len(positions)

    async def settle_session(self, *, symbol: str) -> int:
        """Pay out the open result of a USDC contract, as every eight hours; the position stays."""
        rules, positions = self._open(symbol)
        if not rules.is_usdc_perpetual:
            raise FaultError(f"expected a contract that is settled in USDC, was {symbol}")
        for position in positions:
            result = to_satoshi(self._exchange.account.unrealised(position))
            position.settled = EXACT.add(position.settled, result)
            position.session_price = self._exchange.prices.last("linear", symbol)
            self._exchange.account.settle(position, rules.quote, result)
            self._execute(rules, position, "SessionSettlePnL", position.side, abs(position.size))
        return len(positions)

    async def adl(self, *, symbol: str, qty: str) -> int:
        """Take this much of a position away (auto-deleveraging)."""
        rules, positions = self._open(symbol)
        for position in positions:
            size = min(_decimal("qty", qty), abs(position.size))
            self._reduce(rules, position, "AdlTrade", size)
        return len(positions)

    async def liquidate(self, *, symbol: str) -> int:
        """Take whole positions away (`execType` BustTrade)."""
        rules, positions = self._open(symbol)
        for position in positions:
            self._reduce(rules, position, "BustTrade", abs(position.size))
        return len(positions)

    def _reduce(self, rules: InstrumentRules, position: Position, kind: str, size: Decimal) -> None:
        side = "Sell" if position.size > 0 else "Buy"
        price = self._exchange.prices.last("linear", position.symbol).quantize(rules.tick)
        profit = position.trade(size if side == "Buy" else -size, price)
        self._exchange.account.settle(position, rules.quote, profit)
        self._execute(rules, position, kind, side, size, profit=profit, closed=size)

    def _execute(
        self,
        rules: InstrumentRules,
        position: Position,
        kind: str,
        side: str,
        size: Decimal,
        *,
        fee: Decimal = Decimal(0),
        rate: Decimal = Decimal(0),
        profit: Decimal = Decimal(0),
        closed: Decimal = Decimal(0),
    ) -> None:
        """Keep and push an execution that belongs to no order of ours."""
        exchange = self._exchange
        now, nothing = exchange.clock.ns(), Decimal(0)
        ms, price = now // 1_000_000, exchange.prices.last("linear", rules.symbol).quantize(rules.tick)
        order = Order(
            rules=rules,
            order_id=str(uuid.uuid4()),
            link_id="",
            side=side,
            order_type="UNKNOWN",
            qty=nothing,
            price=nothing,
            time_in_force="IOC",
            created_ms=ms,
            created_ns=now,
        )
        exchange.source.instruments["linear", rules.symbol].seq += 1
        seq = exchange.matcher.sequence(order)
        position.updated_ms, position.seq = ms, seq
        execution = Execution(
            exec_id=str(uuid.uuid4()),
            price=price,
            size=size,
            fee=fee,
            fee_rate=rate,
            fee_coin="",
            leaves=nothing,
            seq=seq,
            time_ms=ms,
            time_ns=now,
            profit=profit,
            closed=closed,
            kind=kind,
        )
        exchange.store.add_execution(order, execution)
        pushes = exchange.pushes.executions(order, [execution])
        exchange.stream.publish([*pushes, exchange.pushes.position(position)])
        self._publish_wallet([rules.quote])

    def _publish_wallet(self, coins: list[str]) -> None:
        exchange = self._exchange
        exchange.stream.publish([exchange.pushes.wallet(coins, exchange.store.locked())])

    def _open(self, symbol: str) -> tuple[InstrumentRules, list[Position]]:
        """Return a contract and its positions that are not flat."""
        positions = [
            one for one in self._exchange.account.positions.values() if one.symbol == symbol and one.size
        ]
        return self._instrument_rules("linear", symbol), positions

    def _instrument_rules(self, channel: str, symbol: str) -> InstrumentRules:
        rules = self._exchange.rule_book.find(channel, symbol)
        if rules is None:
            raise FaultError(f"expected an instrument that can be ordered, was {symbol} on {channel}")
        return rules


class ConditionFaults(AccountFaults):
    """How the account, its instruments and the exchange are, until `clear`."""

    async def hedge_mode(self, *, on: bool = True) -> int:
        """Switch USDT contracts to hedge mode, or back; positions stay where they are."""
        self._exchange.account.hedge_mode = on
        return 1

    async def isolated(self, *, on: bool = True) -> int:
        """Switch the account to isolated margin, or back."""
        self._exchange.account.isolated = on
        return 1

    async def no_money(self, *, coin: str, on: bool = True) -> int:
        """Let orders find nothing of a coin; the wallet stays as it is."""
        blocked = self._exchange.account.blocked_coins
        blocked.add(coin) if on else blocked.discard(coin)
        return 1

    async def extra_fee(self, *, rate: str) -> int:
        """Take a tax of this rate on top of the fee of linear trades (`extraFees`)."""
        self._exchange.account.extra_fee = _decimal("rate", rate)
        return 1

    async def fee_coin(self, *, coin: str, price: str) -> int:
        """Take spot fees in another coin at this price in USD, as with the MNT discount."""
        amount = _decimal("price", price)
        if amount <= 0:
            raise FaultError(f"expected price to be above 0, was {price}")
        self._exchange.account.discount_coin = (coin, amount)
        return 1

    async def status(self, *, channel: str, symbol: str, status: str) -> int:
        """Give an instrument another status."""
        check_choice("status", status, STATUSES)
        self._instrument_rules(channel, symbol).status = status
        return 1

    async def rules(
        self,
        *,
        channel: str,
        symbol: str,
        step: str | None = None,
        tick: str | None = None,
        least_qty: str | None = None,
        least_value: str | None = None,
        most_qty: str | None = None,
    ) -> int:
        """Give an instrument other rules."""
        rules = self._instrument_rules(channel, symbol)
        given = {"step": step, "tick": tick, "least_qty": least_qty, "least_value": least_value}
        given |= {"most_limit_qty": most_qty, "most_market_qty": most_qty}
        for name, text in given.items():
            if text is not None:
                setattr(rules, name, _decimal(name, text))
        return 1

    async def clock(self, *, ms: float) -> int:
        """Set the exchange's clock off by `ms` from that of the machine."""
        if not isinstance(ms, int | float):
            raise FaultError(f"expected ms to be a number, was {ms!r}")
        self._exchange.clock.offset_ms = int(ms)
        return 1

    async def realtime_wiped(self) -> int:
        """Let `/v5/order/realtime` forget the closed orders, as after a restart of the exchange."""
        return self._exchange.store.wipe()

    async def private_drop(
        self, *, how: str = "close", code: int = 1001, seconds: float | None = None
    ) -> int:
        """Drop the private connections; with `seconds` also refuse new ones for so long."""
        faults = self._exchange.public_faults
        if seconds is not None:
            await faults.refuse_handshake(channel="private", seconds=seconds)
        return await faults.drop(channel="private", how=how, code=code)  # type: ignore[arg-type]  # checked there

    async def private_silence(self, *, seconds: float | None = None) -> int:
        """Push nothing on the private connections that are open, which are otherwise alive and well."""
        return await self._exchange.public_faults.silence(channel="private", seconds=seconds)

    async def private_restart(self, *, seconds: float = 1.0) -> int:
        """Let REST and the private stream be gone for `seconds`, and realtime forget the closed orders."""
        check_numbers(seconds=seconds)
        exchange = self._exchange
        exchange.store.wipe()
        await self.private_drop(how="rst", seconds=seconds)
        await exchange.http.stop()
        exchange.background(self._start_again(seconds))
        return 1

    async def _start_again(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._exchange.listen()

    def end_conditions(self) -> None:
        """Set everything back that stands until `clear`."""
        exchange = self._exchange
        account = exchange.account
        account.hedge_mode = account.isolated = False
        account.blocked_coins.clear()
        account.extra_fee, account.discount_coin = Decimal(0), None
        exchange.clock.offset_ms = 0
        exchange.rule_book.reset()
        exchange.limits.forgive()


def _decimal(name: str, text: object) -> Decimal:
    try:
        number = Decimal(str(text))
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite():
        raise FaultError(f"expected {name} to be a number, was {text!r}")
    return number
