"""What became of a trade that is over, as it is booked."""

from __future__ import annotations

from blackbird.trading.records import TradeOutcome
from blackbird.trading.settlement import settle
from blackbird.trading.trade import Trade


def outcome_of(trade: Trade, ended_at: int) -> TradeOutcome:
    """Return the outcome of a trade that is over; `ended_at` is in milliseconds."""
    state, fills = trade.state, trade.fills
    rules = {leg.rules.instrument: leg.rules for leg in (state.buy, state.sell)}
    settled = settle(state.order, state.trade_id, trade.matched, fills, rules, ended_at)
    refusal = trade.refusal
    if refusal is not None and any(leftover.blocks for leftover in settled.leftovers):
        refusal = f"{refusal}: leftover"
    return TradeOutcome(
        trade_id=state.trade_id,
        order=state.order,
        request_key=state.request_key,
        traded=settled.traded,
        refusal=refusal,
        unwound=settled.unwound,
        leftovers=settled.leftovers,
        fills=fills,
        ended_at=ended_at,
    )
