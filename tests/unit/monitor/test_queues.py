"""What the page shows of a queue that is divided into partitions."""

from __future__ import annotations

from blackbird.broker.errors import SessionLost
from blackbird.broker.feed_layout import FeedLayout
from blackbird.broker.session import Session
from blackbird.monitor.queues import QueueDepth, QueueWatch


async def no_session() -> Session:
    raise SessionLost("no broker")


def test_the_depth_of_a_divided_queue_is_that_of_all_partitions_and_of_the_one_with_fewest_consumers() -> (
    None
):
    watch = QueueWatch(no_session, FeedLayout(2))
    assert watch.depth("signal") is None
    watch.depths = {
        "signal.0": QueueDepth(3, 2),
        "signal.1": QueueDepth(4, 0),
        "signal.dead": QueueDepth(9, 0),
        "orders": QueueDepth(1, 1),
    }
    assert watch.depth("signal") == QueueDepth(7, 0)
    assert watch.depth("signal.dead") == QueueDepth(9, 0)
    assert watch.depth("orders") == QueueDepth(1, 1)
