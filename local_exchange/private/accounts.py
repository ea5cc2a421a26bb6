"""The account: wallets and positions, exact to the last digit.

A unified account in one-way mode and cross margin, as
https://bybit-exchange.github.io/docs/v5/account/wallet-balance and
https://bybit-exchange.github.io/docs/v5/position show it. Liquidation and interest do not happen by
themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING

from local_exchange.private.decimals import EXACT, times, to_satoshi, total

if TYPE_CHECKING:
    from local_exchange.private.prices import Prices
    from local_exchange.private.rules import InstrumentRules
    from local_exchange.private.settings import PrivateSettings

ONE_WAY = 0


@dataclass
class Wallet:
    """What the account holds of one coin; below zero is what a linear contract has borrowed."""

    balance: Decimal = Decimal(0)
    # Part of the balance that spot margin trading has borrowed; it is not paid back by itself.
    spot_borrow: Decimal = Decimal(0)
    realised: Decimal = Decimal(0)

    def add(self, amount: Decimal) -> None:
        """Add an amount, which may be below zero."""
        self.balance = EXACT.add(self.balance, amount)


@dataclass
class Position:
    """A position of a linear contract; size and cost are signed, the short one below zero."""

    symbol: str
    idx: int = ONE_WAY
    size: Decimal = Decimal(0)
    # What was paid for the size: the average price is cost / size.
    cost: Decimal = Decimal(0)
    realised: Decimal = Decimal(0)
    # Part of the open result that a session settlement of a USDC contract has paid out already, and the price
    # at which it did; the average price stays.
    settled: Decimal = Decimal(0)
    session_price: Decimal | None = None
    created_ms: int = 0
    updated_ms: int = 0
    seq: int = -1

    @property
    def side(self) -> str:
        """`Buy`, `Sell`, or nothing where it is flat."""
        return "" if not self.size else "Buy" if self.size > 0 else "Sell"

    @property
    def average(self) -> Decimal:
        """Average price, rounded to 8 decimals for showing; 0 where it is flat."""
        return to_satoshi(self.cost / self.size) if self.size else Decimal(0)

    def trade(self, quantity: Decimal, price: Decimal) -> Decimal:
        """Add a signed quantity at a price, and return the profit that this realises.

        The profit has 8 decimals until the position is flat, when what was rounded comes out.
        """
        reducing = self.size and (quantity > 0) != (self.size > 0)
        if not reducing:
            self._open(quantity, price)
            return Decimal(0)
        closed = quantity if abs(quantity) <= abs(self.size) else -self.size
        whole = closed == -self.size
        out = self.cost if whole else to_satoshi(self.cost * -closed / self.size)
        settled = self.settled if whole else to_satoshi(self.settled * -closed / self.size)
        profit = EXACT.subtract(EXACT.subtract(times(-closed, price), out), settled)
        self.settled = EXACT.subtract(self.settled, settled)
        self.size = EXACT.add(self.size, closed)
        self.cost = EXACT.subtract(self.cost, out)
        if closed != quantity:
            self._open(EXACT.subtract(quantity, closed), price)
        return profit

    def _open(self, quantity: Decimal, price: Decimal) -> None:
        self.size = EXACT.add(self.size, quantity)
        self.cost = EXACT.add(self.cost, times(quantity, price))


@dataclass(frozen=True)
class LinearResult:
    """What a trade of a linear contract cost, and what it realised."""

    fee: Decimal
    # Tax on top of the fee.
    extra: Decimal
    profit: Decimal


@dataclass
class Account:
    """Wallets, positions, and how the account is set."""

    settings: PrivateSettings
    prices: Prices
    wallets: dict[str, Wallet] = field(default_factory=dict)
    # By symbol and positionIdx.
    positions: dict[tuple[str, int], Position] = field(default_factory=dict)
    hedge_mode: bool = False
    isolated: bool = False
    # A tax on top of the fee of linear trades, as a fraction; see the fault `extra_fee`.
    extra_fee: Decimal = Decimal(0)
    # Coin in which spot fees are taken, and its price; None: base coin of a buy, quote coin of a sale.
    discount_coin: tuple[str, Decimal] | None = None
    # Coins that every order finds missing; see the fault `no_money`.
    blocked_coins: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        for coin, amount in self.settings.balances.items():
            self.wallet(coin).add(amount)

    def wallet(self, coin: str) -> Wallet:
        """Return the wallet of a coin, made on first use."""
        return self.wallets.setdefault(coin, Wallet())

    def position(self, symbol: str, idx: int = ONE_WAY) -> Position:
        """Return a position, made on first use."""
        key = (symbol, idx)
        return self.positions.setdefault(key, Position(symbol, idx))

    def is_hedged(self, rules: InstrumentRules) -> bool:
        """Return whether a contract is in hedge mode; USDC contracts never are."""
        return self.hedge_mode and not rules.is_usdc_perpetual

    def book_spot(
        self, rules: InstrumentRules, *, buy: bool, price: Decimal, size: Decimal
    ) -> tuple[Decimal, str]:
        """Book a spot trade as taker, and return its fee and the coin of the fee.

        Base coin of a buy, quote coin of a sale, and not rounded; see
        https://bybit-exchange.github.io/docs/v5/enum, spot fee currency. With a discount another coin pays.
        """
        value = times(price, size)
        rate = self.settings.taker_fees["spot"]
        fee, coin = (times(size, rate), rules.base) if buy else (times(value, rate), rules.quote)
        if self.discount_coin is not None:
            coin, coin_price = self.discount_coin
            fee = to_satoshi(times(value, rate) / coin_price)
        self.wallet(rules.base).add(size if buy else -size)
        self.wallet(rules.quote).add(-value if buy else value)
        self.wallet(coin).add(-fee)
        return fee, coin

    def book_linear(
        self, rules: InstrumentRules, *, buy: bool, price: Decimal, size: Decimal, idx: int
    ) -> LinearResult:
        """Book a trade of a linear contract as taker, and return what it cost and brought."""
        value = times(price, size)
        fee = to_satoshi(times(value, self.settings.taker_fees["linear"]))
        extra = to_satoshi(times(value, self.extra_fee))
        position = self.position(rules.symbol, idx)
        profit = position.trade(size if buy else -size, price)
        self.settle(position, rules.quote, EXACT.subtract(profit, EXACT.add(fee, extra)))
        return LinearResult(fee, extra, profit)

    def settle(self, position: Position, coin: str, amount: Decimal) -> None:
        """Pay a result of a position into the wallet of its coin."""
        wallet = self.wallet(coin)
        wallet.add(amount)
        wallet.realised = EXACT.add(wallet.realised, amount)
        position.realised = EXACT.add(position.realised, amount)

    def borrow(self, coin: str, amount: Decimal) -> None:
        """Borrow a coin for a spot order; the balance contains it."""
        wallet = self.wallet(coin)
        wallet.add(amount)
        wallet.spot_borrow = EXACT.add(wallet.spot_borrow, amount)

    def unrealised(self, position: Position) -> Decimal:
        """Return the profit of a position at the mark price that is not settled yet."""
        mark = self.prices.last("linear", position.symbol)
        return EXACT.subtract(times(position.size, mark), EXACT.add(position.cost, position.settled))

    def value(self, position: Position) -> Decimal:
        """Return the value of a position at the mark price, without sign."""
        return abs(times(position.size, self.prices.last("linear", position.symbol)))

    def initial_margin(self) -> Decimal:
        """Return what all positions bind, in USD."""
        return total(*(self.value(one) for one in self.positions.values())) / self.settings.leverage

    def equity(self) -> Decimal:
        """Return wallets and open results in USD, borrowed coins taken off."""
        coins = total(
            *(
                times(EXACT.subtract(wallet.balance, wallet.spot_borrow), self.prices.dollars(coin))
                for coin, wallet in self.wallets.items()
                if coin not in self.blocked_coins
            )
        )
        return total(coins, *(self.unrealised(one) for one in self.positions.values()))
