"""What the sizes of an instrument count, as far as its name tells."""

from __future__ import annotations

import pytest

from blackbird.market.instrument import IncompatibleUnits, Instrument, check_units, size_unit


@pytest.mark.parametrize(
    ("channel", "symbol", "unit"),
    [
        ("spot", "BTCUSDT", "1 coin"),
        ("linear", "BTCPERP", "1 coin"),
        ("linear", "BTC-27DEC24", "1 coin"),
        ("linear", "1000PEPEUSDT", "1000 coins"),
        ("linear", "1000PEPEPERP", "1000 coins"),
        ("linear", "10000LADYSUSDT", "10000 coins"),
        ("linear", "1000000MOGUSDT", "1000000 coins"),
        ("linear", "SHIB1000USDT", "1000 coins"),
        ("linear", "SHIB1000PERP", "1000 coins"),
        ("linear", "SHIB1000USDT-27DEC24", "1000 coins"),
        ("inverse", "BTCUSD", "1 contract of 1 USD"),
        ("inverse", "BTCUSDH27", "1 contract of 1 USD"),
        ("option", "BTC-27DEC24-100000-C", "1 option contract"),
        # Names that tell nothing.
        ("spot", "1INCHUSDT", "1 coin"),
        ("spot", "0GUSDT", "1 coin"),
        ("linear", "SPX6900USDT", "1 coin"),
        ("linear", "NAS100USDT", "1 coin"),
        ("spot", "1000", "1 coin"),
        ("spot", "whatever", "1 coin"),
    ],
)
def test_unit_of_a_size(channel: str, symbol: str, unit: str) -> None:
    assert str(size_unit(Instrument(channel, symbol))) == unit


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("spot", "BTCUSDT"), ("linear", "BTCPERP")),
        (("inverse", "BTCUSD"), ("inverse", "BTCUSDH27")),
        (("option", "BTC-27DEC24-100000-C"), ("option", "BTC-27DEC24-100000-P")),
        (("linear", "1000PEPEUSDT"), ("linear", "1000PEPEPERP")),
        (("linear", "1000SHIBUSDT"), ("linear", "SHIB1000USDT")),
        (("spot", "FOO"), ("linear", "BAR")),
    ],
)
def test_instruments_of_one_unit_may_share_a_group(one: tuple[str, str], other: tuple[str, str]) -> None:
    check_units(Instrument(*one), Instrument(*other))
    check_units(Instrument(*other), Instrument(*one))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("linear", "BTCUSDT"), ("inverse", "BTCUSD")),
        (("spot", "BTCUSDT"), ("option", "BTC-27DEC24-100000-C")),
        (("inverse", "BTCUSD"), ("option", "BTC-27DEC24-100000-C")),
        (("linear", "1000PEPEUSDT"), ("spot", "PEPEUSDT")),
        (("linear", "10000LADYSUSDT"), ("linear", "1000LADYSUSDT")),
        (("linear", "SHIB1000USDT"), ("spot", "SHIBUSDT")),
    ],
)
def test_instruments_of_two_units_may_not(one: tuple[str, str], other: tuple[str, str]) -> None:
    for first, second in ((one, other), (other, one)):
        with pytest.raises(IncompatibleUnits, match=r"can't be traded against"):
            check_units(Instrument(*first), Instrument(*second))


def test_refusal_says_what_each_size_counts() -> None:
    with pytest.raises(IncompatibleUnits) as refusal:
        check_units(Instrument("linear", "1000PEPEUSDT"), Instrument("spot", "PEPEUSDT"))
    assert str(refusal.value) == (
        "linear:1000PEPEUSDT can't be traded against spot:PEPEUSDT:"
        " a size of 1 is 1000 coins of the one and 1 coin of the other"
    )
