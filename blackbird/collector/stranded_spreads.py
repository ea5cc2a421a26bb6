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
    """Return how many spreads, and how much exposure of `instrument` in them, can't be closed."""
    spreads = list(stranded)
    sides = {
        "long": sum((spread.quantity for spread in spreads if spread.long == instrument), Decimal(0)),
        "short": sum((spread.quantity for spread in spreads if spread.short == instrument), Decimal(0)),
    }
    exposure = " and ".join(f"{size.normalize():f} {side}" for side, size in sides.items() if size)
    count = "1 open spread" if len(spreads) == 1 else f"{len(spreads)} open spreads"
    return (
        f"{count} with an exposure of {exposure} in {instrument} can't be closed "
        "until both legs are subscribed with the same matching key"
    )
