from __future__ import annotations

from blackbird.market.instrument import Instrument
from blackbird.monitor.history import SECONDS, History, Mark

SPOT = Instrument("spot", "BTCUSDT")
PERP = Instrument("linear", "BTCPERP")
T = 1_723_161_600


def test_both_directions_are_kept_and_shown_as_pay_and_cost() -> None:
    history = History()
    history.add_spread(T, PERP, SPOT, 26.2)
    history.add_spread(T, SPOT, PERP, -26.3)
    assert history.spread(PERP, SPOT) == ([T], [26.3], [26.2])
    assert history.spread(SPOT, PERP) == ([T], [-26.2], [-26.3])
    assert history.main_direction(SPOT, PERP) == (PERP, SPOT)


def test_seconds_without_a_value_are_gaps() -> None:
    history = History()
    history.add_pnl(T, 1.0, 0.5)
    history.add_pnl(T + 3, 2.0, 0.7)
    assert history.pnl() == ([T, T + 1, T + 2, T + 3], [1.0, None, None, 2.0], [0.5, None, None, 0.7])


def test_the_chart_holds_fifteen_minutes_and_no_more() -> None:
    history = History()
    for second in range(2 * SECONDS):
        history.add_pnl(T + second, float(second), 0.0)
    points = history.pnl()
    assert points.seconds == list(range(T + SECONDS, T + 2 * SECONDS))
    assert points.first == [float(second) for second in range(SECONDS, 2 * SECONDS)]


def test_what_was_before_a_long_pause_is_gone() -> None:
    history = History()
    history.add_spread(T, PERP, SPOT, 1.0)
    history.add_pnl(T + 2 * SECONDS, 2.0, 0.0)
    assert set(history.spread(PERP, SPOT).second) == {None}
    history.add_spread(T + 2 * SECONDS, PERP, SPOT, 3.0)
    assert [value for value in history.spread(PERP, SPOT).second if value is not None] == [3.0]


def test_the_deepest_fall_is_from_an_earlier_high() -> None:
    history = History()
    for second, total in enumerate([0.0, 5.0, 1.0, 8.0, 3.5, 9.0]):
        history.add_pnl(T + second, total, 0.0)
    assert history.deepest_fall() == -4.5


def test_executions_of_a_second_are_one_mark_with_their_mean() -> None:
    history = History()
    history.add_pnl(T, 0.0, 0.0)
    for value in (26.0, 28.0):
        history.add_trade(T, PERP, SPOT, value, opens=True)
    history.add_trade(T, PERP, SPOT, 25.0, opens=False)
    assert history.marks(PERP, SPOT) == [Mark(T, 27.0, True, 2), Mark(T, 25.0, False, 1)]
    assert history.marks(SPOT, PERP)[0] == Mark(T, -27.0, True, 2)
    history.forget_trades()
    assert history.marks(PERP, SPOT) == []
