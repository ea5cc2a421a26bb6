"""What is sent of an order: sizes on the steps of both legs, limits that an open cannot lose at."""

from __future__ import annotations

import random
from collections.abc import Callable
from decimal import Decimal

import pytest

from blackbird.market.instrument import Instrument
from blackbird.trading.instrument_rules import InstrumentRules, common_step, round_down, round_up
from blackbird.trading.orders import CLOSE_SPREAD, OPEN_SPREAD, Order, Refused
from blackbird.trading.sizing import (
    MARGIN,
    NO_MARGINS,
    Limits,
    Margins,
    MarginTerms,
    Sizes,
    gross_up,
    limit_prices,
    size_order,
)

SPOT = Instrument("spot", "BTCUSDT")
PERP = Instrument("linear", "BTCPERP")
PLENTY = Decimal("1e15")
FIVE_BPS = Decimal(5)
COINS = ("BTC", "USDT", "USDC")
CASES = 10_000


def rules(instrument: Instrument = SPOT, **other: str) -> InstrumentRules:
    """Return rules like those of BTCUSDT or BTCPERP, with these instead."""
    is_spot = instrument.channel == "spot"
    given = {
        "step": "0.000001" if is_spot else "0.001",
        "tick": "0.1",
        "least_quantity": "0.000011" if is_spot else "0.001",
        "most_quantity": "83" if is_spot else "1190",
        "most_market_quantity": "41.5" if is_spot else "500",
        "least_value": "5",
        **{name: text for name, text in other.items() if name not in {"base", "quote", "status"}},
    }
    quote = other.get("quote", "USDT" if is_spot else "USDC")
    return InstrumentRules(
        instrument,
        other.get("base", "BTC"),
        quote,
        quote,
        status=other.get("status", "Trading"),
        **{name: Decimal(text) for name, text in given.items()},
    )


def order(
    size: str,
    *,
    action: str = OPEN_SPREAD,
    buy: Instrument = SPOT,
    sell: Instrument = PERP,
    buy_price: str = "64000",
    sell_price: str = "64200",
) -> Order:
    return Order(
        action=action,  # type: ignore[arg-type]  # one of the two constants
        buy=buy,
        buy_price=Decimal(buy_price),
        sell=sell,
        sell_price=Decimal(sell_price),
        size=Decimal(size),
        ts_buy=1,
        ts_sell=1,
    )


def sized(
    asked: Order,
    buy: InstrumentRules | None = None,
    sell: InstrumentRules | None = None,
    *,
    fee: str = "0.001",
    free: Callable[[str], Decimal] = lambda _: PLENTY,
    tolerance: Decimal = FIVE_BPS,
    margins: Margins = NO_MARGINS,
) -> Sizes:
    return size_order(
        asked,
        buy or rules(asked.buy),
        sell or rules(asked.sell),
        tolerance_bps=tolerance,
        base_fee=Decimal(fee),
        free=free,
        margins=margins,
    )


def refusal(asked: Order, **options: object) -> str:
    with pytest.raises(Refused) as refused:
        sized(asked, **options)  # type: ignore[arg-type]
    return str(refused.value)


def test_size_is_on_the_coarser_step_and_a_spot_buy_is_grossed_up_for_its_fee() -> None:
    sizes = sized(order("0.1004"))
    assert (sizes.size, sizes.sell_quantity) == (Decimal("0.1"), Decimal("0.1"))
    assert sizes.buy_quantity == Decimal("0.100101")


def test_nothing_is_grossed_up_where_the_fee_is_not_taken_in_base_coin() -> None:
    assert sized(order("0.1"), fee="0").buy_quantity == Decimal("0.1")
    sizes = sized(order("0.1", buy=PERP, sell=SPOT))
    assert (sizes.buy_quantity, sizes.sell_quantity) == (Decimal("0.1"), Decimal("0.1"))


def test_steps_that_do_not_divide_each_other_have_a_common_multiple() -> None:
    assert common_step(Decimal("0.002"), Decimal("0.003")) == Decimal("0.006")
    assert common_step(Decimal("1E+1"), Decimal("0.4")) == Decimal(10)
    sizes = sized(order("0.02"), rules(step="0.003"), rules(PERP, step="0.002"), fee="0")
    assert sizes.size == Decimal("0.018")


def test_size_below_a_minimum_of_either_leg_is_refused_by_its_name() -> None:
    assert refusal(order("0.0009")) == "size below minimum: 0.0009 of linear:BTCPERP"
    assert refusal(order("0.001"), sell=rules(PERP, least_quantity="0.002")) == (
        "size below minimum: 0.001 of linear:BTCPERP"
    )
    # 0.001 at the limit of 64167.9 is worth less than 64.2, which it is worth at the quoted price.
    assert refusal(order("0.001"), sell=rules(PERP, least_value="64.2")) == (
        "size below minimum: 0.001 of linear:BTCPERP"
    )
    assert sized(order("0.001"), sell=rules(PERP, least_value="64.1")).size == Decimal("0.001")


def test_size_is_cut_to_the_largest_order_with_what_is_bought_for_the_fee() -> None:
    assert sized(order("100"), sell=rules(PERP, most_quantity="7.5")).size == Decimal("7.5")
    sizes = sized(order("100"))
    assert sizes.size == Decimal("82.917")
    assert sizes.buy_quantity <= 83


def test_size_is_cut_to_what_the_account_has_and_refused_where_that_is_too_little() -> None:
    have = {"BTC": Decimal("0.0555"), "USDT": Decimal(1000), "USDC": PLENTY}
    short = order("0.1", buy=PERP, sell=SPOT)
    assert sized(short, free=have.__getitem__).size == Decimal("0.055")
    assert refusal(short, free=lambda _: Decimal(0)) == "not enough BTC"
    sizes = sized(order("0.1"), free=have.__getitem__)
    assert sizes.size == Decimal("0.015")
    assert sizes.buy_quantity * sizes.buy_limit <= 1000
    assert refusal(order("0.1"), free=lambda _: Decimal(50)) == "not enough USDT"
    assert refusal(order("0.1"), free=lambda _: Decimal(-3)) == "not enough USDT"


def test_only_instruments_of_one_coin_that_trade_on_spot_and_linear_are_traded() -> None:
    inverse = Instrument("inverse", "BTCUSD")
    assert refusal(order("1", sell=inverse), sell=rules(inverse)) == (
        "instrument not tradable: inverse:BTCUSD: expected spot or linear"
    )
    assert refusal(order("1"), sell=rules(PERP, base="1000BTC")) == (
        "instrument not tradable: linear:BTCPERP: expected BTC as base coin like spot:BTCUSDT, was 1000BTC"
    )
    assert refusal(order("1"), buy=rules(status="Closed")) == (
        "instrument not tradable: spot:BTCUSDT: its status is Closed"
    )


def test_limits_are_the_prices_with_a_tolerance_outward_on_the_tick() -> None:
    limits = limit_prices(order("1", action=CLOSE_SPREAD), rules(), rules(PERP, tick="0.5"), FIVE_BPS)
    assert (limits.buy, limits.sell) == (Decimal(64032), Decimal("64167.5"))
    odd = order("1", action=CLOSE_SPREAD, buy_price="64000.03", sell_price="63999.97")
    limits = limit_prices(odd, rules(), rules(PERP), Decimal(0))
    assert (limits.buy, limits.sell) == (Decimal("64000.1"), Decimal("63999.9"))


def test_limits_of_an_open_meet_in_the_middle_of_its_spread_at_most() -> None:
    limits = limit_prices(order("1", sell_price="64010.3"), rules(), rules(PERP), FIVE_BPS)
    assert (limits.buy, limits.sell) == (Decimal("64005.1"), Decimal("64005.2"))
    # One that loses from the start is not made worse.
    limits = limit_prices(order("1", sell_price="63990"), rules(), rules(PERP), FIVE_BPS)
    assert (limits.buy, limits.sell) == (Decimal(64000), Decimal(63990))


def random_rules(chance: random.Random, instrument: Instrument) -> InstrumentRules:
    """Return rules of an instrument that may be quite unlike those of the other leg."""
    factor = chance.choice([1, 1, 1, 1, 2, 5])
    step = Decimal(factor).scaleb(chance.randint(-7, 2))
    least = round_up(Decimal(chance.uniform(0.5, 40)).quantize(Decimal("1e-9")) * step, step)
    most = least + step * chance.randint(0, 10**6)
    return rules(
        instrument,
        step=f"{step:f}",
        tick=f"{Decimal(chance.choice([1, 1, 5])).scaleb(chance.randint(-4, 0)):f}",
        least_quantity=f"{least:f}",
        most_quantity=f"{most:f}",
        most_market_quantity=f"{most:f}",
        least_value=str(chance.choice([0, 5, 100])),
    )


def test_ten_thousand_random_pairs_of_rules_are_never_refused_for_their_size() -> None:
    chance = random.Random(6)
    sent = 0
    for _ in range(CASES):
        legs = chance.choice([(SPOT, PERP), (PERP, SPOT), (PERP, Instrument("linear", "BTCUSDT"))])
        buy, sell = (random_rules(chance, leg) for leg in legs)
        price = Decimal(str(chance.uniform(0.5, 90_000))).quantize(Decimal("0.0001"))
        asked = order(
            f"{Decimal(str(10 ** chance.uniform(-6, 6))).quantize(Decimal('1e-9')):f}",
            action=chance.choice([OPEN_SPREAD, CLOSE_SPREAD]),
            buy=legs[0],
            sell=legs[1],
            buy_price=str(price),
            sell_price=str(price * Decimal(str(chance.uniform(0.99, 1.01))).quantize(Decimal("0.0001"))),
        )
        fee = Decimal(chance.choice(["0", "0.00055", "0.001", "0.0018"]))
        money = Decimal(str(10 ** chance.uniform(0, 9))).quantize(Decimal("1e-6"))
        try:
            sizes = sized(asked, buy, sell, fee=str(fee), free=dict.fromkeys(COINS, money).__getitem__)
        except Refused as refused:
            check_refusal(str(refused), asked, buy, sell)
            continue
        sent += 1
        check_sizes(sizes, asked, buy, sell, fee if legs[0] == SPOT else Decimal(0), money)
    assert sent > CASES / 5


def check_refusal(text: str, asked: Order, buy: InstrumentRules, sell: InstrumentRules) -> None:
    if text.startswith("not enough"):
        return
    assert text.startswith("size below minimum")
    step = common_step(buy.step, sell.step)
    size = min(round_down(asked.size, step), buy.most_quantity, sell.most_quantity)
    limits = limit_prices(asked, buy, sell, FIVE_BPS)
    # What the largest order of the other leg leaves, less than a step and the fee, may be below a minimum.
    assert (
        min(size, round_down(buy.most_quantity * Decimal("0.998"), step) - step)
        < max(buy.least_quantity, sell.least_quantity)
        or size == 0
        or (size - step) * Decimal("0.998") * limits.buy < buy.least_value
        or (size - step) * Decimal("0.998") * limits.sell < sell.least_value
    )


def check_sizes(
    sizes: Sizes, asked: Order, buy: InstrumentRules, sell: InstrumentRules, fee: Decimal, money: Decimal
) -> None:
    assert 0 < sizes.size <= asked.size
    assert sizes.sell_quantity == sizes.size
    for quantity, limit, leg in (
        (sizes.buy_quantity, sizes.buy_limit, buy),
        (sizes.sell_quantity, sizes.sell_limit, sell),
    ):
        assert quantity % leg.step == 0
        assert leg.least_quantity <= quantity <= leg.most_quantity
        assert quantity * limit >= leg.least_value
        assert limit % leg.tick == 0
    assert sizes.size % buy.step == 0, "what was bought can be sold again"
    received = sizes.buy_quantity * (1 - fee)
    assert sizes.size <= received < sizes.size + buy.step
    assert gross_up(sizes.size, buy.step, fee) == sizes.buy_quantity
    if buy.instrument.channel == "spot":
        assert sizes.buy_quantity * sizes.buy_limit <= money
    if sell.instrument.channel == "spot":
        assert sizes.sell_quantity <= money
    if asked.action == OPEN_SPREAD and asked.sell_price > asked.buy_price:
        assert sizes.sell_limit >= sizes.buy_limit


TENTH = MarginTerms(Decimal(0), Decimal("0.1"))


def with_margin(amount: str) -> Callable[[str], Decimal]:
    return lambda coin: Decimal(amount) if coin == MARGIN else PLENTY


def test_size_is_cut_to_the_margin_that_is_free() -> None:
    margins = Margins(sell=TENTH)
    sizes = sized(order("0.1"), margins=margins, free=with_margin("500"))
    assert sizes.size == round_down(Decimal(5000) / sizes.sell_limit, Decimal("0.001"))
    assert margins.needed(sizes.size, Limits(sizes.buy_limit, sizes.sell_limit)) <= 500
    assert sized(order("0.1"), margins=margins, free=with_margin("641.9")).size == Decimal("0.1")


def test_account_without_margin_is_refused_with_the_reason() -> None:
    assert refusal(order("0.1"), margins=Margins(sell=TENTH), free=with_margin("0.1")) == "not enough margin"
    assert refusal(order("0.1"), margins=Margins(sell=TENTH), free=with_margin("-3")) == "not enough margin"


def test_no_margin_is_needed_for_what_reduces_a_position() -> None:
    reducing = MarginTerms(Decimal("0.06"), Decimal("0.1"))
    assert sized(order("0.1"), margins=Margins(sell=reducing), free=with_margin("0")).size == Decimal("0.06")
    assert sized(order("0.1"), margins=Margins(sell=reducing), free=with_margin("400")).size == Decimal("0.1")


def test_close_is_not_measured_by_its_margin() -> None:
    closing = order("0.1", action=CLOSE_SPREAD)
    assert sized(closing, margins=Margins(sell=TENTH), free=with_margin("0")).size == Decimal("0.1")


def test_both_legs_of_two_perpetuals_need_margin() -> None:
    margins = Margins(TENTH, TENTH)
    limits = Limits(Decimal(60_000), Decimal(40_000))
    assert margins.most(Decimal(1000), limits) == Decimal("0.1")
    assert margins.needed(Decimal("0.1"), limits) == 1000
