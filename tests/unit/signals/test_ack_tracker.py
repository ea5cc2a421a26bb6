"""What of the book queue is acknowledged, and when."""

from __future__ import annotations

from blackbird.signals.ack_tracker import ACKNOWLEDGE_EVERY, AckTracker


def test_everything_before_the_oldest_pending_delivery_is_acknowledged() -> None:
    tags: list[int] = []
    acks = AckTracker(tags.append)
    acks.delivered(1)
    acks.hold(2)
    acks.delivered(2)
    acks.hold(3)
    acks.delivered(4)
    acks.flush()
    assert tags == [1]
    acks.release(3)
    acks.flush()
    assert tags == [1], "the second one is still pending"
    acks.release(2)
    acks.flush()
    assert tags == [1, 4]
    acks.flush()
    assert tags == [1, 4], "nothing new"


def test_many_deliveries_are_acknowledged_without_waiting_for_a_flush() -> None:
    tags: list[int] = []
    acks = AckTracker(tags.append)
    for tag in range(1, 2 * ACKNOWLEDGE_EVERY + 2):
        acks.delivered(tag)
    assert tags == [ACKNOWLEDGE_EVERY, 2 * ACKNOWLEDGE_EVERY]


def test_new_session_begins_with_new_tags_and_nothing_pending() -> None:
    tags: list[int] = []
    acks = AckTracker(tags.append)
    acks.hold(1)
    acks.delivered(900)
    acks.restart()
    acks.flush()
    acks.delivered(3)
    acks.flush()
    assert tags == [3]


def test_what_is_kept_holds_the_others_back_until_it_is_let_go() -> None:
    tags: list[int] = []
    acks = AckTracker(tags.append)
    acks.keep(2)
    acks.delivered(4)
    acks.flush()
    assert tags == [1]
    acks.let_go(2)
    acks.let_go(2)
    acks.flush()
    assert tags == [1, 4]
