"""Open spreads that a change of the subscriptions leaves without a group to be closed in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal

from blackbird.market.instrument import Instrument
from blackbird.trading.orders import OpenSpread


def stranded_spreads(
    spreads: Iterable[OpenSpread], instrument: Instrument, groups: Mapping[tuple[str, str], str]
) -> list[OpenSpread]:
    """Return those of `spreads` with `instrument` as a leg whose legs are not in one group.

    `groups` is the matching key of each subscribed instrument.
    """
    return [
        spread
        for spread in spreads
        if instrument in (spread.long, spread.short)
        and (groups.get(spread.long) is None or groups.get(spread.long) != groups.get(spread.short))
    ]


def stranded_warning(stranded: Iterable[OpenSpread], instrument: Instrument) -> str:
    """Return how many spreads, and how much exposure of `instrument` in them, can't be closed.

    In quote coin, at the entry prices, where all of them are known.
    """
    spreads = list(stranded)
    sides = {
        "long": sum((spread.quantity for spread in spreads if spread.long == instrument), Decimal(0)),
        "short": sum((spread.quantity for spread in spreads if spread.short == instrument), Decimal(0)),
    }
    exposure = " and ".join(f"{size.normalize():f} {side}" for side, size in sides.items() if size)
    values = [_value(spread, instrument) for spread in spreads]
    known = [value for value in values if value is not None]
    in_quote_coin = ""
    if len(known) == len(values):
        total = sum(known, Decimal(0)).normalize()
        in_quote_coin = f", {total:f} in quote coin at the entry prices,"
    count = "1 open spread" if len(spreads) == 1 else f"{len(spreads)} open spreads"
    return (
        f"{count} with an exposure of {exposure} in {instrument}{in_quote_coin} can't be closed "
        "until both legs are subscribed with the same matching key"
    )


def _value(spread: OpenSpread, instrument: Instrument) -> Decimal | None:
    price = spread.long_price if spread.long == instrument else spread.short_price
    return None if price is None else price * spread.quantity
