"""Which subscription map counts, and that the newest one is kept for the next start."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from pika.spec import BasicProperties

from blackbird.broker.topology import LATEST_SUBSCRIPTION, SUBSCRIPTION
from blackbird.market.instrument import Instrument
from blackbird.market.subscriptions import encode_subscriptions
from blackbird.runtime.failure_log import FailureLog
from blackbird.signals.subscription_map import SubscriptionMap
from tests.support.fake_session import FakeSession

OLD = encode_subscriptions([Instrument("spot", "OLD")])
NEW = encode_subscriptions([Instrument("spot", "NEW")])
NEWER = encode_subscriptions([Instrument("spot", "NEWER")])
GARBAGE = b"{no map"


class Follower:
    """A subscription map with a session; `applied` has the symbols of each map that counted."""

    def __init__(self) -> None:
        self.applied: list[list[str]] = []
        self.failures = FailureLog()
        self.session = FakeSession()
        self.map = SubscriptionMap(self._apply, self.failures)

    def _apply(self, instruments: Sequence[Instrument]) -> None:
        symbols = [instrument.symbol for instrument in instruments]
        if "CRASH" in symbols:
            raise ZeroDivisionError
        self.applied.append(symbols)

    def follow(self, *waiting: bytes, latest: bytes | None = None) -> None:
        """Begin where these maps wait in the queue, and `latest` is the newest."""
        self.session.waiting[SUBSCRIPTION] = list(waiting)
        self.session.waiting[LATEST_SUBSCRIPTION] = [] if latest is None else [latest]
        asyncio.run(self.map.follow(self.session.as_session))

    def deliver(self, body: bytes) -> None:
        tag = self.session.deliver(SUBSCRIPTION, body)
        assert self.session.acknowledged[-1] == tag

    @property
    def republished(self) -> list[bytes]:
        assert {key for _, key, _, _ in self.session.published} <= {LATEST_SUBSCRIPTION}
        return [body for _, _, body, _ in self.session.published]


def test_at_the_beginning_the_newest_map_alone_counts() -> None:
    follower = Follower()
    follower.follow(OLD, OLD, latest=NEW)
    assert follower.applied == [["NEW"]]
    assert follower.session.acknowledged == [1, 2]
    follower.deliver(NEWER)
    assert follower.applied == [["NEW"], ["NEWER"]]
    assert follower.republished == []


def test_where_the_newest_is_malformed_those_that_wait_count() -> None:
    follower = Follower()
    follower.follow(OLD, NEW, latest=GARBAGE)
    assert follower.applied == [["OLD"], ["NEW"]]


def test_without_any_map_nothing_is_applied() -> None:
    follower = Follower()
    follower.follow()
    assert follower.applied == []


def test_malformed_map_is_dead_lettered_and_the_newest_put_behind_it() -> None:
    follower = Follower()
    follower.follow(latest=NEW)
    follower.deliver(GARBAGE)
    assert follower.applied == [["NEW"]]
    assert [(queue, body) for queue, _, body in follower.session.dead_letters] == [(SUBSCRIPTION, GARBAGE)]
    assert follower.republished == [NEW]
    # The next one may have come before what was put behind the malformed one.
    follower.deliver(NEWER)
    assert follower.republished == [NEW, NEWER]
    follower.deliver(NEW)
    assert follower.republished == [NEW, NEWER]


def test_malformed_map_before_any_other_is_not_replaced() -> None:
    follower = Follower()
    follower.follow()
    follower.deliver(GARBAGE)
    assert follower.republished == []


def test_map_that_crashes_its_handler_is_put_aside_and_the_next_one_counts() -> None:
    crash = encode_subscriptions([Instrument("spot", "CRASH")])
    follower = Follower()
    follower.follow(latest=crash)
    follower.deliver(crash)
    follower.deliver(NEW)
    assert follower.applied == [["NEW"]]
    assert [body for _, _, body in follower.session.dead_letters] == [crash]
    assert sum(follower.failures.counts.values()) == 2


def test_malformed_map_on_a_lost_session_raises_nothing() -> None:
    follower = Follower()
    follower.follow(latest=NEW)
    follower.session.is_lost = True
    follower.deliver(GARBAGE)
    assert follower.applied == [["NEW"]]


def test_a_worn_copy_of_the_newest_map_is_replaced_and_what_comes_is_put_behind_it() -> None:
    follower = Follower()
    follower.session.peeked_properties = BasicProperties(headers={"x-delivery-count": 5})
    follower.follow(OLD, latest=NEW)
    assert follower.republished == [NEW]
    # Had one of these come just before the new copy, the copy would have pushed it out.
    follower.deliver(NEWER)
    follower.deliver(OLD)
    assert follower.republished == [NEW, NEWER, OLD]


def test_a_copy_that_was_seldom_requeued_stays() -> None:
    follower = Follower()
    follower.session.peeked_properties = BasicProperties(headers={"x-delivery-count": 4})
    follower.follow(latest=NEW)
    follower.deliver(NEWER)
    assert follower.republished == []
