"""A trade ends with the truth and with equal legs, whatever the exchange, the network and crashes do."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from blackbird.trading.leg_order import BUY, SELL
from blackbird.trading.order_sequence import WINDOW_MS
from blackbird.trading.sent_order import MOST_SENDINGS
from blackbird.trading.settlement import late_fills
from blackbird.trading.spreads import pair_of
from blackbird.trading.trade import Trade, TradeState
from blackbird.trading.trade_outcome import outcome_of
from blackbird.trading.unwinding import TRIES, need_to_go_back
from tests.support.real_trades import RULES, net_cash, net_sizes, new_engine
from tests.support.trade_model import PERP, SPOT, START, Behaviour, TradeModel, new_state

FATES = st.sampled_from(["taken", "taken", "taken", "reply lost", "request lost", "refused"])
SHARES = st.sampled_from(["1", "1", "0.5", "0.377", "0.004", "0"])

behaviours = st.builds(
    Behaviour,
    fates=st.lists(FATES, min_size=1, max_size=16),
    filled=st.lists(SHARES, min_size=1, max_size=16),
    # Look-ups may lag for long, as pushes or patience make up for it.
    lags=st.lists(st.sampled_from([0, 0, 100, 2_900, 12_000]), min_size=1, max_size=8),
    push_delays=st.lists(st.sampled_from([0, 3, 400, 2_500, None]), min_size=1, max_size=8),
    push_orders=st.lists(
        st.sampled_from(["fills first", "end first", "twice", "backwards"]), min_size=1, max_size=8
    ),
    failing_look_ups=st.integers(0, 30),
    base_fee=st.sampled_from(["0", "0.001", "0.0018"]),
    crash_after=st.sets(st.integers(1, 60), max_size=4),
    crash_before=st.sets(st.integers(1, 60), max_size=4),
)
states = st.builds(
    new_state,
    is_close=st.booleans(),
    buys_spot=st.booleans(),
    size=st.sampled_from(["0.1", "0.001", "0.037"]),
    base_fee=st.sampled_from(["0", "0.001"]),
    expires_in=st.sampled_from([None, 300, 2_000, 60_000]),
)


@settings(max_examples=600, deadline=None)
@given(states, behaviours)
def test_all_that_was_filled_is_known_in_the_end(state: TradeState, behaviour: Behaviour) -> None:
    model = TradeModel(state, behaviour)
    trade = model.run()
    assert {fill.exec_id for fill in trade.fills} == model.fills


@settings(max_examples=400, deadline=None)
@given(states, behaviours)
def test_legs_end_equal_or_every_try_was_made(state: TradeState, behaviour: Behaviour) -> None:
    trade = TradeModel(state, behaviour).run()
    matched, held = trade.matched, trade.held
    for leg, has in ((trade.state.buy, held.buy), (trade.state.sell, held.sell)):
        assert has >= matched
        need = need_to_go_back(leg, has, matched)
        assert need is None or _tries(trade, need.leg.rules.instrument, need.side) == TRIES
    assert (trade.refusal is None) == (matched > 0)


@settings(max_examples=300, deadline=None)
@given(states, behaviours)
def test_what_is_sent_is_bounded(state: TradeState, behaviour: Behaviour) -> None:
    model = TradeModel(state, behaviour)
    trade = model.run()
    first = [(at, order) for at, order in model.sent if order.limit is not None]
    for link_id in ("history-trade-b1", "history-trade-s1"):
        assert sum(order.link_id == link_id for _, order in first) <= MOST_SENDINGS
    expires_at = state.order.expires_at
    assert all(at <= (START + WINDOW_MS if expires_at is None else expires_at) for at, _ in first)
    for leg in (trade.state.buy, trade.state.sell):
        for side in (BUY, SELL):
            assert _tries(trade, leg.rules.instrument, side) <= TRIES
    for _, order in model.sent:
        assert order.slippage_percent is None or order.slippage_percent <= Decimal(1)
        rules = next(leg.rules for leg in (state.buy, state.sell) if leg.rules.instrument == order.instrument)
        assert rules.round_down(order.quantity) == order.quantity > 0


@settings(max_examples=300, deadline=None)
@given(states, behaviours)
def test_no_order_is_sent_while_an_earlier_one_is_not_over(state: TradeState, behaviour: Behaviour) -> None:
    model = TradeModel(state, behaviour)
    model.run()
    assert not model.overlaps


# Executions of which the exchange says nothing for longer than anybody waits.
hidden = st.builds(
    Behaviour,
    fates=st.lists(FATES, min_size=1, max_size=16),
    filled=st.lists(SHARES, min_size=1, max_size=16),
    lags=st.lists(st.sampled_from([0, 12_000, 400_000]), min_size=1, max_size=8),
    push_delays=st.lists(st.sampled_from([3, 40_000, 500_000]), min_size=1, max_size=8),
    push_orders=st.lists(st.sampled_from(["fills first", "backwards"]), min_size=1, max_size=8),
    base_fee=st.sampled_from(["0", "0.001"]),
    crash_after=st.sets(st.integers(1, 30), max_size=3),
    crash_before=st.sets(st.integers(1, 30), max_size=3),
)


@settings(max_examples=500, deadline=None)
@given(states, hidden, st.data())
def test_books_come_to_all_that_was_filled_however_late_it_is_known(
    state: TradeState, behaviour: Behaviour, data: st.DataObject
) -> None:
    model = TradeModel(state, behaviour)
    # What is hidden is looked up until it is there, one try to make the legs equal after the other.
    trade = model.run_until_over(most_ms=7_200_000)
    engine = new_engine(limit="1e12")
    outcome = outcome_of(trade, model.now)
    engine.book(outcome)
    known = {fill.exec_id for fill in outcome.fills}
    assert known <= model.fills
    late = [fill for fill in model.executions if fill.exec_id not in known]
    for fill in data.draw(st.permutations(late)):
        number = engine.leftovers.next_number(outcome.trade_id)
        pair = pair_of(outcome.order)
        engine.amend(late_fills(outcome.trade_id, [fill], RULES, pair, number, model.now))
    flux = {leg: Fraction(-engine.risks.get(leg, 0)) for leg in (SPOT, PERP)}
    for leg in (SPOT, PERP):
        assert engine.held(leg) == net_sizes(model.executions).get(leg, 0)
        assert flux[leg] - Fraction(engine.leftovers.paid(leg)) == net_cash(model.executions).get(leg, 0)
    assert engine.pnl == sum(flux.values())
    assert engine.positions.get(SPOT, 0) == -engine.positions.get(PERP, 0), "what is booked is hedged"


def _tries(trade: Trade, instrument: object, side: str) -> int:
    return sum(
        not sent.may_repeat and (sent.order.instrument, sent.order.side) == (instrument, side)
        for sent in trade.state.orders
    )
