"""What is known of one order at the exchange: an unknown one is asked about, never guessed."""

from __future__ import annotations

from decimal import Decimal

import pytest

from blackbird.trading.leg_order import (
    BUY,
    Fill,
    Final,
    LegEvent,
    LegOrder,
    LegRefused,
    NotFound,
    Taken,
    Unknown,
)
from blackbird.trading.sent_order import (
    FORGOTTEN_MS,
    LONGEST_LOOK_UP_LAG_MS,
    LOOK_UP_LAG_MS,
    PUSH_PATIENCE_MS,
    SentOrder,
)
from tests.support.trade_model import PERP

LINK = "history-trade-b1"
D = Decimal
DEADLINE = 2_000


def sent_order(*, may_repeat: bool = True, is_sent: bool = True) -> SentOrder:
    """Return an order of 0.1 that was sent at 0 and is taken until 2,000 at the latest."""
    sent = SentOrder(LegOrder(LINK, PERP, BUY, D("0.1"), limit=D(64_000)), DEADLINE, may_repeat)
    if is_sent:
        sent.send()
    return sent


def phase(sent: SentOrder) -> str:
    """Return the phase; mypy does not know that events change it."""
    return sent.phase


def fill(quantity: str, number: int = 1) -> Fill:
    return Fill(f"e{number}", LINK, PERP, BUY, D(64_000), D(quantity), D(0), "USDC", 1)


def find_nothing(sent: SentOrder, at: int, *, pushes_missed: bool = False) -> None:
    """Look the order up where it is due, in vain."""
    assert sent.look_up_at is not None
    assert sent.look_up_at <= at
    assert sent.begin_look_up(at)
    sent.looked_up([NotFound(LINK)], at, pushes_missed=pushes_missed)


def find_nothing_until_over(sent: SentOrder, *, pushes_missed: bool = False) -> int:
    """Look the order up whenever it is due, in vain; return when it was over."""
    now = 0
    while not sent.is_over:
        assert sent.look_up_at is not None
        now = max(now, sent.look_up_at)
        find_nothing(sent, now, pushes_missed=pushes_missed)
        if phase(sent) == "planned":
            sent.send()
            sent.take(Unknown(LINK, "again"), now)
    return now


@pytest.mark.parametrize("first", ["fills", "end"])
def test_order_is_over_once_its_end_and_all_its_fills_are_here(first: str) -> None:
    sent = sent_order()
    sent.take(Taken(LINK, "1"), 5)
    events: list[LegEvent] = [fill("0.04"), fill("0.02", 2), Final(LINK, D("0.06"))]
    for event in events if first == "fills" else reversed(events):
        assert not sent.is_over
        sent.take(event, 10)
    assert (phase(sent), sent.filled, sent.ended_at) == ("done", D("0.06"), 10)
    assert sent.look_up_at is None


def test_end_without_fills_is_zero_filled() -> None:
    sent = sent_order()
    sent.take(Final(LINK, D(0)), 10)
    assert (phase(sent), sent.filled) == ("done", D(0))


def test_same_fill_counts_once() -> None:
    sent = sent_order()
    for _ in range(3):
        sent.take(fill("0.04"), 10)
    assert sent.filled == D("0.04")
    assert phase(sent) == "taken"


def test_fill_proves_that_the_order_was_taken_whatever_was_answered_before() -> None:
    for event in (Unknown(LINK, "no answer"), LegRefused(LINK, 110007, "ab not enough")):
        sent = sent_order()
        sent.take(event, 5)
        sent.take(fill("0.1"), 10)
        assert (phase(sent), sent.refusal) == ("taken", None)
        sent.take(Final(LINK, D("0.1")), 11)
        assert sent.is_over


def test_taken_order_is_asked_about_when_nothing_is_pushed_and_sooner_without_pushes() -> None:
    sent = sent_order()
    sent.take(Taken(LINK, "1"), 5)
    assert sent.look_up_at == 5 + PUSH_PATIENCE_MS
    assert not sent.begin_look_up(5 + PUSH_PATIENCE_MS - 1)
    assert sent.begin_look_up(5 + PUSH_PATIENCE_MS)
    assert not sent.begin_look_up(9_999), "one at a time"
    other = sent_order()
    other.take(Taken(LINK, "1"), 5, pushes_missed=True)
    assert other.look_up_at is not None
    assert other.look_up_at < 5 + PUSH_PATIENCE_MS


def test_taken_order_that_cannot_be_found_is_looked_up_on_and_on() -> None:
    sent = sent_order()
    sent.take(Taken(LINK, "1"), 5)
    now = 0
    for _ in range(50):
        assert sent.look_up_at is not None
        now = sent.look_up_at
        find_nothing(sent, now)
        assert phase(sent) == "taken"
    assert now > DEADLINE + LONGEST_LOOK_UP_LAG_MS
    sent.look_up_at = DEADLINE + FORGOTTEN_MS
    find_nothing(sent, DEADLINE + FORGOTTEN_MS)
    assert (phase(sent), sent.filled) == ("done", D(0)), "fills are kept for longer than that"


def test_refused_order_is_over() -> None:
    sent = sent_order()
    sent.take(LegRefused(LINK, 110007, "ab not enough"), 5)
    assert (phase(sent), sent.ended_at, sent.look_up_at) == ("refused", 5, None)


def test_unknown_order_is_looked_up_at_once() -> None:
    sent = sent_order()
    sent.take(Unknown(LINK, "no answer"), 5)
    assert (phase(sent), sent.look_up_at) == ("unknown", 5)


def test_unknown_order_that_is_not_there_is_sent_once_more_before_its_deadline() -> None:
    sent = sent_order()
    sent.take(Unknown(LINK, "no answer"), 5)
    find_nothing(sent, 5)
    assert phase(sent) == "unknown", "it may not be visible yet"
    find_nothing(sent, 300)
    assert phase(sent) == "planned"
    sent.send()
    sent.take(Unknown(LINK, "no answer"), 310)
    for now in (310, 600, 1_200, 1_999):
        if sent.look_up_at is not None and sent.look_up_at <= now:
            find_nothing(sent, now)
        assert phase(sent) == "unknown", "and not a third time"


@pytest.mark.parametrize("why", ["late", "unwinding", "recovered"])
def test_unknown_order_is_not_sent_once_more(why: str) -> None:
    sent = sent_order(may_repeat=why != "unwinding")
    sent.take(Unknown(LINK, "no answer"), 5)
    if why == "recovered":
        sent.resume(5)
    begin = DEADLINE if why == "late" else 5
    for now in (begin, begin + 500, begin + 1_500):
        find_nothing(sent, now)
        assert phase(sent) == "unknown"


def test_refusal_of_the_second_sending_says_nothing_of_the_first() -> None:
    sent = sent_order()
    sent.take(Unknown(LINK, "no answer"), 5)
    find_nothing(sent, 5)
    find_nothing(sent, 300)
    sent.send()
    sent.take(LegRefused(LINK, 110007, "ab not enough"), 310)
    assert phase(sent) == "unknown"
    sent.take(fill("0.1"), 900)
    assert sent.filled == D("0.1")


@pytest.mark.parametrize(("pushes_missed", "lag"), [(False, LOOK_UP_LAG_MS), (True, LONGEST_LOOK_UP_LAG_MS)])
def test_order_was_not_sent_once_look_ups_after_the_longest_lag_find_nothing(
    pushes_missed: bool, lag: int
) -> None:
    sent = sent_order(may_repeat=False)
    sent.take(Unknown(LINK, "no answer"), 5)
    assert find_nothing_until_over(sent, pushes_missed=pushes_missed) == DEADLINE + lag
    assert phase(sent) == "refused"
    assert sent.refusal == LegRefused(LINK, 0, "not sent")


def test_recovered_order_waits_for_the_longest_lag() -> None:
    sent = sent_order()
    sent.resume(100)
    assert sent.look_up_at == 100
    assert find_nothing_until_over(sent) == DEADLINE + LONGEST_LOOK_UP_LAG_MS


def test_look_up_that_began_too_early_proves_nothing() -> None:
    sent = sent_order(may_repeat=False)
    sent.take(Unknown(LINK, "no answer"), 5)
    for now in (5, 300, 900, 2_000, 4_000):
        find_nothing(sent, now)
    sent.look_up_at = DEADLINE + LOOK_UP_LAG_MS - 1
    assert sent.begin_look_up(DEADLINE + LOOK_UP_LAG_MS - 1)
    sent.looked_up([NotFound(LINK)], DEADLINE + LOOK_UP_LAG_MS + 500, pushes_missed=False)
    assert phase(sent) == "unknown"


def test_failed_look_ups_prove_nothing_however_many_there_are() -> None:
    sent = sent_order(may_repeat=False)
    sent.take(Unknown(LINK, "no answer"), 5)
    now = 0
    for _ in range(100):
        assert sent.look_up_at is not None
        now = sent.look_up_at
        assert sent.begin_look_up(now)
        sent.look_up_failed(now)
    assert now > DEADLINE + LONGEST_LOOK_UP_LAG_MS
    assert phase(sent) == "unknown"


def test_look_up_gives_what_was_missed() -> None:
    sent = sent_order()
    sent.take(Unknown(LINK, "no answer"), 5)
    assert sent.begin_look_up(5)
    sent.looked_up([Taken(LINK, "1"), fill("0.1"), Final(LINK, D("0.1"))], 9, pushes_missed=False)
    assert (phase(sent), sent.filled) == ("done", D("0.1"))


def test_order_of_which_the_fills_cannot_be_seen_yet_is_looked_up_again() -> None:
    sent = sent_order()
    sent.take(Final(LINK, D("0.1")), 5)
    assert sent.begin_look_up(5 + PUSH_PATIENCE_MS)
    sent.looked_up([Taken(LINK, "1"), fill("0.04"), Final(LINK, D("0.1"))], 600, pushes_missed=False)
    assert phase(sent) == "taken"
    assert sent.look_up_at is not None
    assert 600 < sent.look_up_at < 1_200


def test_fill_of_an_order_that_was_believed_not_sent_counts() -> None:
    sent = sent_order(may_repeat=False)
    sent.take(Unknown(LINK, "no answer"), 5)
    find_nothing_until_over(sent)
    sent.take(fill("0.1"), 90_000)
    assert (phase(sent), sent.refusal, sent.filled) == ("taken", None, D("0.1"))


def test_order_that_is_over_is_left_alone_when_its_trade_is_resumed() -> None:
    sent = sent_order()
    sent.take(Final(LINK, D(0)), 5)
    sent.resume(100)
    assert (phase(sent), sent.look_up_at) == ("done", None)
