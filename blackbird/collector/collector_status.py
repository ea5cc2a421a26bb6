"""What the collector says of itself: its streams, and what the broker takes of their pushes."""

from __future__ import annotations

from collections.abc import Mapping

from blackbird.bybit.stream import Stream
from blackbird.collector.feed_manager import FeedManager
from blackbird.collector.publisher import FeedPublisher
from blackbird.runtime.failure_log import FailureLog
from blackbird.status.messages import CollectorStatus, StreamStatus


class CollectorStatusSource:
    """Describes a collector made of these parts."""

    def __init__(self, feeds: FeedManager, publisher: FeedPublisher) -> None:
        self._feeds = feeds
        self._publisher = publisher
        self._failures = FailureLog()

    @property
    def is_connected(self) -> bool:
        """Whether there is a session to publish on."""
        return self._publisher.is_up

    @property
    def failure_counts(self) -> Mapping[str, int]:
        """How often which programming error was survived: each ends a collector."""
        return self._failures.counts

    async def describe(self) -> CollectorStatus:
        """Return what the collector does."""
        publisher = self._publisher
        pending = publisher.pending()
        waiting = pending.total()
        return CollectorStatus(
            streams=[self._stream(stream, pending[stream.instrument]) for stream in self._feeds.streams],
            publisher=publisher.state.value,
            pending=waiting,
            buffer=publisher.buffer,
            pushes=publisher.received,
            published=publisher.received - publisher.dropped - waiting,
            dropped=publisher.dropped,
            push_age=publisher.push_age.counts(),
            confirm=publisher.confirm_age.counts(),
        )

    def _stream(self, stream: Stream, pending: int) -> StreamStatus:
        dropped = self._publisher.drops[stream.instrument]
        return StreamStatus(
            channel=stream.instrument.channel,
            symbol=stream.instrument.symbol,
            matching_key=stream.matching_key,
            up=stream.is_up,
            phase=stream.phase.value,
            silence_seconds=stream.topic.silence_seconds,
            reason="" if stream.is_up else stream.reason,
            pushes=stream.topic.pushes,
            # What was dropped or waits may be of an earlier subscription of the instrument.
            published=max(0, stream.topic.pushes - dropped - pending),
            dropped=dropped,
            reconnects=stream.reconnects,
            resyncs=stream.resyncs,
        )
