"""What a trade does next, path by path; the same from a journal in test_trade_properties.py."""

from __future__ import annotations

import itertools
from decimal import Decimal

import msgspec
import pytest

from blackbird.trading.leg_order import BUY, SELL, Fill, Final, LegRefused, NotFound, Taken, Unknown
from blackbird.trading.order_sequence import WINDOW_MS, LookUp, Send
from blackbird.trading.trade import Trade, TradeState
from blackbird.trading.unwinding import PAUSES_MS, TRIES
from tests.support.trade_model import (
    BUY_PRICE,
    PERP,
    SELL_PRICE,
    SPOT,
    START,
    Behaviour,
    TradeModel,
    new_state,
)

D = Decimal
BUY_LEG, SELL_LEG = "history-trade-b1", "history-trade-s1"


def trade_of(**options: object) -> Trade:
    return Trade(new_state(**options), lambda _, __: D(0))  # type: ignore[arg-type]


def sent(model: TradeModel) -> list[tuple[str, str, Decimal]]:
    """Return what was sent: the end of the link id, the side, the quantity."""
    return [(order.link_id.rpartition("-")[2], order.side, order.quantity) for _, order in model.sent]


def ran(state: TradeState, **behaviour: object) -> TradeModel:
    model = TradeModel(state, Behaviour(**behaviour))  # type: ignore[arg-type]
    model.run()
    return model


# --- the first orders --------------------------------------------------------------------------------


def test_both_legs_go_out_at_once_at_their_limits() -> None:
    actions = trade_of().start(START)
    assert all(isinstance(action, Send) and action.is_new for action in actions)
    orders = [action.order for action in actions if isinstance(action, Send)]
    assert [(order.link_id, order.side, order.limit) for order in orders] == [
        (BUY_LEG, BUY, BUY_PRICE),
        (SELL_LEG, SELL, SELL_PRICE),
    ]
    assert {order.quantity for order in orders} == {D("0.1")}
    assert not any(order.reduce_only for order in orders), "an open"


@pytest.mark.parametrize(("expires_in", "window"), [(None, WINDOW_MS), (300, 300), (60_000, WINDOW_MS)])
def test_exchange_may_take_the_first_orders_until_the_order_expires_and_for_2_s_at_most(
    expires_in: int | None, window: int
) -> None:
    actions = trade_of(expires_in=expires_in).start(START)
    assert [action.deadline for action in actions if isinstance(action, Send)] == [START + window] * 2


def test_whole_fills_end_the_trade() -> None:
    model = ran(new_state())
    assert sent(model) == [("b1", BUY, D("0.1")), ("s1", SELL, D("0.1"))]
    assert (model.trade.matched, model.trade.refusal) == (D("0.1"), None)


def test_spot_that_was_grossed_up_for_its_fee_leaves_the_size() -> None:
    model = ran(new_state(base_fee="0.001"), base_fee="0.001")
    assert sent(model)[0] == ("b1", BUY, D("0.100101"))
    assert model.trade.matched == D("0.1")
    assert len(model.sent) == 2, "what is more is less than an order"


# --- unequal opens -----------------------------------------------------------------------------------


def test_open_goes_back_to_what_both_legs_have() -> None:
    model = ran(new_state(), filled=["0.6", "1"])
    assert sent(model)[2:] == [("u1", BUY, D("0.04"))]
    assert model.trade.matched == D("0.06")
    unwinding = model.sent[2][1]
    assert (unwinding.instrument, unwinding.limit, unwinding.slippage_percent) == (PERP, None, D("0.1"))


def test_open_of_which_one_leg_fails_goes_back_to_nothing() -> None:
    model = ran(new_state(), fates=["taken", "refused", "taken"])
    assert sent(model)[2:] == [("u1", SELL, D("0.1"))]
    assert (model.trade.matched, model.trade.refusal) == (D(0), "sell leg failed")


def test_fee_that_was_not_reckoned_with_takes_both_legs_back_to_the_common_step() -> None:
    model = ran(new_state(), base_fee="0.001")
    assert sorted(sent(model)[2:]) == [("u1", SELL, D("0.0009")), ("u2", BUY, D("0.001"))]
    assert model.trade.matched == D("0.099")


def test_each_try_goes_further_and_waits_longer_and_they_are_bounded() -> None:
    model = ran(new_state(), fates=["taken", "refused", "taken"], filled=["1", "0"])
    tries = model.sent[2:]
    assert [order.slippage_percent for _, order in tries] == [D("0.1"), D("0.2"), D("0.5"), 1, 1]
    assert [order.link_id[-3:] for _, order in tries] == ["-u1", "-u2", "-u3", "-u4", "-u5"]
    pauses = [later[0] - earlier[0] for earlier, later in itertools.pairwise(tries)]
    assert all(pause >= least for pause, least in zip(pauses, PAUSES_MS[1:], strict=True))
    assert len(tries) == TRIES
    assert model.trade.held.buy == D("0.1"), "left over"


def test_matched_part_that_could_never_be_closed_goes_back() -> None:
    # 0.001 BTC is worth 64 USDT.
    model = ran(new_state(least_value="100"), filled=["0.01", "0.01"])
    assert (model.trade.matched, model.trade.refusal) == (D(0), "not filled")


# --- unequal closes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("filled", "lags"), [(["0.6", "1"], BUY), (["1", "0.6"], SELL)])
def test_close_goes_on_with_the_leg_that_lags(filled: list[str], lags: str) -> None:
    model = ran(new_state(is_close=True), filled=[*filled, "1"])
    assert sent(model)[2:] == [("u1", lags, D("0.04"))]
    assert model.trade.matched == D("0.1")


def test_close_of_which_neither_leg_fills_goes_nowhere() -> None:
    model = ran(new_state(is_close=True), filled=["0"])
    assert len(model.sent) == 2
    assert model.trade.refusal == "not filled"


def test_close_that_is_refused_twice_goes_back_instead_of_on() -> None:
    model = ran(new_state(is_close=True), fates=["taken", "refused", "refused", "taken"])
    assert sent(model)[2:] == [("u1", SELL, D("0.1")), ("u2", SELL, D("0.1"))]
    assert [order.instrument for _, order in model.sent[2:]] == [PERP, SPOT], "on, then back"
    assert (model.trade.matched, model.trade.refusal) == (D(0), "sell leg failed")
    assert model.trade.held.buy == 0


def test_close_that_cannot_go_on_after_its_tries_goes_back() -> None:
    model = ran(new_state(is_close=True), filled=["1", *["0"] * (TRIES + 1), "1"])
    ends = [(order.instrument, order.side) for _, order in model.sent[2:]]
    assert ends == [(PERP, SELL)] * TRIES + [(SPOT, SELL)]
    assert model.trade.held.buy == 0


def test_spot_that_a_close_buys_back_arrives_whole() -> None:
    model = ran(new_state(is_close=True, base_fee="0.001"), base_fee="0.001", filled=["0.5", "1"])
    assert model.trade.matched == D("0.1")
    assert D("0.1") <= model.trade.held.buy < D("0.1") + D("0.000002")


# --- reduce only -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("is_close", "position", "expected"),
    [(True, "0.1", True), (True, "0.099", False), (True, "0", False), (False, "5", False)],
)
def test_close_only_reduces_where_the_account_has_that_much(
    is_close: bool, position: str, expected: bool
) -> None:
    trade = Trade(new_state(is_close=is_close), lambda _, side: D(position) if side == SELL else D(0))
    orders = {
        action.order.instrument: action.order for action in trade.start(START) if isinstance(action, Send)
    }
    assert orders[PERP].reduce_only == expected
    assert not orders[SPOT].reduce_only


def test_unwinding_only_reduces_where_the_account_has_that_much() -> None:
    for held, expected in (("-1", True), ("-0.03", False)):
        model = TradeModel(new_state(), Behaviour(filled=["0.6", "1"]))
        model.position = D(held)
        model.run()
        assert model.sent[2][1].reduce_only == expected


# --- unknown outcomes --------------------------------------------------------------------------------


def test_lost_request_is_sent_once_more_with_the_same_id() -> None:
    model = ran(new_state(), fates=["request lost", "taken"])
    assert sorted(end for end, _, _ in sent(model)) == ["b1", "b1", "s1"]
    assert model.trade.matched == D("0.1")
    assert model.now - START < 1_000


def test_lost_reply_is_found_and_nothing_sent_again() -> None:
    model = ran(new_state(), fates=["reply lost"])
    assert len(model.sent) == 2
    assert model.trade.matched == D("0.1")


def test_order_that_look_ups_do_not_show_yet_is_not_filled_twice() -> None:
    model = ran(new_state(), fates=["reply lost"], lags=[3_000], push_delays=[None])
    assert model.duplicates == 2
    assert len(model.fills) == 4
    assert model.trade.matched == D("0.1")


def test_nothing_goes_back_while_the_other_leg_is_unknown() -> None:
    trade = trade_of()
    trade.start(START)
    trade.take(_fill(SELL_LEG, PERP, SELL), START + 5)
    trade.take(Final(SELL_LEG, D("0.1")), START + 5)
    assert trade.take(Unknown(BUY_LEG, "no answer"), START + 5) == [LookUp(BUY_LEG, SPOT)]
    assert not trade.is_over
    assert trade.looked_up(BUY_LEG, [NotFound(BUY_LEG)], START + 9, pushes_missed=False) == []


def test_order_that_was_never_placed_says_so() -> None:
    model = ran(new_state(expires_in=20), fates=["request lost"])
    assert (model.trade.matched, model.trade.refusal) == (D(0), "order not placed")


@pytest.mark.parametrize(
    ("fates", "info"),
    [
        (["refused", "request lost"], "buy leg failed"),
        (["taken", "refused"], "sell leg failed"),
        (["refused", "refused"], "buy leg failed"),
        (["taken", "taken"], "not filled"),
    ],
)
def test_trade_without_any_fill_says_why(fates: list[str], info: str) -> None:
    assert ran(new_state(expires_in=20), fates=fates, filled=["0"]).trade.refusal == info


def test_late_fill_of_a_running_trade_is_taken_in() -> None:
    trade = trade_of()
    trade.start(START)
    trade.take(LegRefused(BUY_LEG, 110007, "ab not enough"), START + 1)
    trade.take(_fill(BUY_LEG, SPOT, BUY), START + 2)
    assert trade.wake_at is not None, "not over"
    trade.take(Final(BUY_LEG, D("0.1")), START + 3)
    trade.take(_fill(SELL_LEG, PERP, SELL), START + 3)
    trade.take(Final(SELL_LEG, D("0.1")), START + 3)
    assert trade.is_over
    assert trade.matched == D("0.1")


def test_events_of_other_orders_change_nothing() -> None:
    trade = trade_of()
    trade.start(START)
    assert trade.take(Taken("history-trade-u7", "1"), START + 1) == []
    assert trade.take(_fill("history-other-b1", SPOT, BUY), START + 1) == []
    assert trade.fills == ()


# --- recovery ----------------------------------------------------------------------------------------


def test_resumed_trade_asks_and_never_sends_its_first_orders() -> None:
    trade = trade_of()
    trade.start(START)
    resumed = Trade(
        msgspec.json.decode(msgspec.json.encode(trade.state), type=TradeState), lambda _, __: D(0)
    )
    assert resumed.resume(START + 50) == [LookUp(BUY_LEG, SPOT), LookUp(SELL_LEG, PERP)]
    for now in (100, 400, 900):
        for link_id in (BUY_LEG, SELL_LEG):
            actions = resumed.looked_up(link_id, [NotFound(link_id)], START + now, pushes_missed=False)
            assert not any(isinstance(action, Send) for action in actions)


@pytest.mark.parametrize("step", range(1, 12))
def test_trade_that_crashes_at_any_step_ends_as_if_it_had_not(step: int) -> None:
    for moment in ("crash_after", "crash_before"):
        crashed = ran(new_state(), filled=["0.6", "1"], **{moment: {step}})
        assert {fill.exec_id for fill in crashed.trade.fills} == crashed.fills
        held = crashed.trade.held
        assert held.buy == held.sell == crashed.trade.matched
        # Nothing was sent by the first process where it died before its first byte went out.
        assert crashed.trade.matched == (0 if (moment, step) == ("crash_before", 1) else D("0.06"))


def _fill(link_id: str, instrument: object, side: str) -> Fill:
    price = BUY_PRICE if side == BUY else SELL_PRICE
    return Fill(f"{link_id}-e", link_id, instrument, side, price, D("0.1"), D(0), "USDT", START)  # type: ignore[arg-type]
