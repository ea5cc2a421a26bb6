"""Last-value queues with a delivery limit: quorum queues on RabbitMQ 4, where that is the default type."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from blackbird.broker.session import Session, connection_parameters
from blackbird.broker.topology import COLLECTOR_SUBSCRIPTIONS, LATEST_SUBSCRIPTION
from blackbird.collector.broker_link import BrokerLink
from blackbird.collector.publisher import FeedPublisher
from blackbird.market.instrument import Instrument
from blackbird.market.saved_subscriptions import SavedSubscription
from blackbird.market.subscriptions import encode_subscriptions
from blackbird.runtime.failure_log import FailureLog
from blackbird.signals.subscription_map import SubscriptionMap
from config import Config
from tests.support.workspace import Workspace

SPOT = Instrument("spot", "BTCUSDT")
SAVED = b'{"spot":[{"symbol":"BTCUSDT","matching_key":"a"}]}'
# RabbitMQ 4 has this limit without being asked.
LIMIT = 20


@pytest.fixture
def limited(place: Workspace) -> Workspace:
    """A virtual host whose last-value queues drop what was delivered more than LIMIT times."""
    channel = place.channel()
    arguments = {"x-queue-type": "quorum", "x-max-length": 1, "x-delivery-limit": LIMIT}
    for queue in (COLLECTOR_SUBSCRIPTIONS, LATEST_SUBSCRIPTION):
        channel.queue_declare(queue, durable=True, arguments=arguments)
    channel.confirm_delivery()
    channel.basic_publish("", COLLECTOR_SUBSCRIPTIONS, SAVED)
    channel.basic_publish("", LATEST_SUBSCRIPTION, encode_subscriptions([SPOT]))
    return place


def start_again_and_again(place: Workspace, serve: Callable[[Session], Awaitable[None]]) -> None:
    """Serve a session after the other, well more of them than LIMIT."""
    where = connection_parameters(**{**Config.BROKER_CONFIG, "virtual_host": place.name})

    async def act() -> None:
        foreign = {COLLECTOR_SUBSCRIPTIONS, LATEST_SUBSCRIPTION}
        for _ in range(LIMIT + 10):
            session = await Session.open(where, foreign)
            await serve(session)
            await session.closed()

    asyncio.run(act())


def test_the_newest_map_outlives_any_number_of_starts(limited: Workspace) -> None:
    applied: list[Sequence[Instrument]] = []

    async def serve(session: Session) -> None:
        await session.declare_feed()
        await SubscriptionMap(applied.append, FailureLog()).follow(session)

    start_again_and_again(limited, serve)
    assert [list(each) for each in applied] == [[SPOT]] * (LIMIT + 10)


def test_the_saved_subscriptions_outlive_any_number_of_starts(limited: Workspace) -> None:
    restored: list[list[SavedSubscription]] = []

    async def serve(session: Session) -> None:
        publisher = FeedPublisher(lambda _: None, buffer=10)
        await BrokerLink(publisher, restore=True, on_restore=restored.append, on_resync=lambda _: None).serve(
            session
        )

    start_again_and_again(limited, serve)
    assert restored == [[SavedSubscription(SPOT, "a")]] * (LIMIT + 10)
