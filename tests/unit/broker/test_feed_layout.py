"""How a feed is divided: which queues there are, and which of them a group goes to."""

from __future__ import annotations

import pytest

from blackbird.broker.feed_layout import FeedLayout, Share, kind_of, queue_arguments
from blackbird.broker.topology import FEED_QUEUES, QUEUE_ARGUMENTS


def test_an_undivided_feed_is_what_it_always_was() -> None:
    layout = FeedLayout()
    assert layout.bindings() == FEED_QUEUES
    assert layout.queues("storage") == ["storage"]
    assert layout.partition_of("a") == 0
    assert {queue: queue_arguments(queue) or {} for queue in QUEUE_ARGUMENTS} == QUEUE_ARGUMENTS


def test_a_divided_feed_has_two_queues_for_each_partition_in_place_of_two() -> None:
    layout = FeedLayout(2)
    assert layout.queues("signal") == ["signal.0", "signal.1"]
    assert set(layout.bindings()) == {
        "storage.0",
        "storage.1",
        "signal.0",
        "signal.1",
        "subscription.latest",
        "quote",
        "feeds",
    }
    assert all(queue == key for queue, key in layout.bindings().items() if queue != "subscription.latest")
    assert all(queue_arguments(queue) is not None for queue in layout.queues("signal"))


def test_a_group_stays_in_its_partition_from_one_release_to_the_next() -> None:
    groups = {key: FeedLayout(16).partition_of(key) for key in ("a", "BTC", "ключ")}
    assert groups == {"a": 3, "BTC": 6, "ключ": 10}


@pytest.mark.parametrize(
    ("queue", "kind"),
    [("signal.12", "signal"), ("signal", "signal"), ("signal.dead", "signal.dead"), ("storage.0", "storage")],
)
def test_the_queues_of_all_partitions_are_of_one_kind(queue: str, kind: str) -> None:
    assert kind_of(queue) == kind


def test_each_group_is_in_the_share_of_one_collector() -> None:
    shares = [Share(FeedLayout(8), number, 3) for number in range(3)]
    assert all(sum(share.has(key) for share in shares) == 1 for key in map(str, range(100)))
    assert Share().has("a")
    assert [share.numbers_queue for share in shares] == [
        "collector.numbers",
        "collector.numbers.1",
        "collector.numbers.2",
    ]
    assert queue_arguments("collector.numbers.1") == QUEUE_ARGUMENTS["collector.numbers"]
