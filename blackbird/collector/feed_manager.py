"""The subscriptions, and the streams that serve them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from typing import Protocol

from blackbird.bybit.stream import Stream, StreamContext, SubscriptionStatus
from blackbird.collector.stream_tasks import StreamTasks
from blackbird.market.instrument import Instrument
from blackbird.market.saved_subscriptions import SavedSubscription, encode_saved
from blackbird.market.subscriptions import encode_subscriptions

logger = logging.getLogger(__name__)

# What a POST waits for: the exchange's answer, then the broker's.
ANSWER_SECONDS = 2.5
CONFIRM_SECONDS = 1.0


class MapPublisher(Protocol):
    """What publishes the subscription map; see FeedPublisher."""

    @property
    def is_up(self) -> bool:
        """Whether there is a session to publish on."""

    @property
    def subscriptions_confirmed(self) -> bool:
        """Whether the broker has the newest of the subscriptions that were published."""

    def publish_subscriptions(self, subscriptions: bytes, saved: bytes) -> asyncio.Future[None]:
        """Publish the map and what the next start restores; done when the broker has both."""


class FeedManager:
    """The subscriptions and the streams that serve them.

    Nothing is published of the subscriptions before `restore`: consumers would drop the instruments that are
    about to be restored. `on_key` is called with an instrument's matching key before a push has it.

    `is_ours` says of a matching key whether this collector serves its instruments. Of another collector's it
    asks the exchange once whether it takes them.
    """

    def __init__(
        self,
        publisher: MapPublisher,
        context: StreamContext,
        on_key: Callable[[Instrument, str], None] = lambda *_: None,
        is_ours: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self.subscriptions: dict[str, list[str]] = {}
        self.matching_key: dict[tuple[str, str], str] = {}
        self._publisher = publisher
        self._context = context
        self._on_key = on_key
        self._is_ours = is_ours
        # Streams of subscriptions, and of those that the exchange has not answered yet.
        self._streams: dict[Instrument, Stream] = {}
        self._tasks = StreamTasks()
        # Subscriptions that the exchange has never accepted: made while it could not be reached.
        self._unconfirmed: set[Instrument] = set()
        self._restored = False
        self._unsubscribed_early: set[Instrument] = set()
        self._announced: asyncio.Future[None] | None = None

    # --- requests ----------------------------------------------------------------------------

    async def subscribe(self, instrument: Instrument, matching_key: str) -> tuple[SubscriptionStatus, str]:
        """Subscribe, and return what the exchange thinks of it and why.

        It joins the subscriptions unless the exchange refuses it; an instrument that is there takes the key.
        """
        stream = self._streams.get(instrument)
        if stream is None and instrument in self.matching_key:
            return await self._move(instrument, matching_key)
        if stream is None:
            stream = self._add_stream(instrument, matching_key)
            self._tasks.rebuild(self._streams.values())
        elif stream.matching_key != matching_key:
            self._change_key(stream, matching_key)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_SECONDS):
                await stream.answered.wait()
        if self._streams.get(instrument) is stream:
            self._keep(stream)
        await self._confirmed()
        return stream.status, stream.reason

    async def unsubscribe(self, instrument: Instrument) -> None:
        """End the subscription and its stream; does nothing for an instrument that is not subscribed."""
        if not self._restored:
            self._unsubscribed_early.add(instrument)
        stream = self._streams.get(instrument)
        if stream is not None or instrument in self.matching_key:
            logger.info("%s: unsubscribed", instrument)
            if stream is not None:
                self._remove(stream)
            else:
                self._forget(instrument)
            await self._confirmed()

    def request_snapshots(self, instruments: Iterable[Instrument]) -> None:
        """Ask the exchange for fresh snapshots of those instruments that are subscribed."""
        for instrument in instruments:
            stream = self._streams.get(instrument)
            if stream is None:
                logger.debug("%s: a snapshot was requested, but it is not subscribed", instrument)
            else:
                stream.request_snapshot()

    def restore(self, saved: Iterable[SavedSubscription]) -> None:
        """Add the subscriptions of an earlier collector, and publish the map from now on."""
        for entry in saved:
            instrument = entry.instrument
            if instrument not in self._streams and instrument not in self._unsubscribed_early:
                if self._is_ours(entry.matching_key) or not entry.accepted:
                    self._add_stream(instrument, entry.matching_key)
                self._enter(instrument, entry.matching_key, confirmed=entry.accepted)
        self._restored = True
        self._unsubscribed_early.clear()
        if self.matching_key:
            logger.info("%d subscriptions restored", len(self.matching_key))
        self._tasks.rebuild(self._streams.values())
        self._announce()

    def follow(self, subscriptions: Iterable[SavedSubscription]) -> None:
        """Serve of another collector's subscriptions those that are this one's, and nothing else."""
        wanted = {
            entry.instrument: entry.matching_key
            for entry in subscriptions
            if entry.accepted and self._is_ours(entry.matching_key)
        }
        for stream in self.streams:
            if stream.instrument not in wanted:
                self._remove(stream)
        for instrument, matching_key in wanted.items():
            known = self._streams.get(instrument)
            if known is None:
                self._add_stream(instrument, matching_key)
                self._enter(instrument, matching_key, confirmed=True)
            elif known.matching_key != matching_key:
                self._change_key(known, matching_key)
        self._tasks.rebuild(self._streams.values())

    @property
    def failure(self) -> asyncio.Future[None]:
        """Done when the task of a stream failed, which is a fault of this program."""
        return self._tasks.failure

    @property
    def streams(self) -> list[Stream]:
        """The streams, those without an answer of the exchange included."""
        return list(self._streams.values())

    def group(self, matching_key: str) -> list[Instrument]:
        """Return the instruments with this matching key, those without an answer of the exchange included."""
        keys = self.matching_key | {each: stream.matching_key for each, stream in self._streams.items()}
        return [Instrument(*each) for each, key in keys.items() if key == matching_key]

    @property
    def is_saved(self) -> bool:
        """Whether the broker has the subscriptions as they are."""
        return self._restored and self._publisher.subscriptions_confirmed

    def listed(self) -> dict[str, list[dict[str, str]]]:
        """Return the subscriptions by channel, each with its symbol and matching key."""
        return {
            channel: [
                {"symbol": symbol, "matching_key": self.matching_key[channel, symbol]} for symbol in symbols
            ]
            for channel, symbols in self.subscriptions.items()
        }

    def down(self) -> list[str]:
        """Return which subscriptions are not served just now, each with the reason."""
        return [
            f"{instrument}: {stream.phase.value}" + (f" ({stream.reason})" if stream.reason else "")
            for instrument, stream in self._streams.items()
            if instrument in self.matching_key and not stream.is_up
        ]

    async def close(self) -> None:
        """End all streams."""
        await self._tasks.close()

    # --- subscriptions -----------------------------------------------------------------------

    def _on_status(self, stream: Stream) -> None:
        instrument, kept = stream.instrument, stream.instrument in self.matching_key
        if self._streams.get(instrument) is not stream or (kept and instrument not in self._unconfirmed):
            return
        if stream.status is SubscriptionStatus.REFUSED:
            if kept:
                logger.warning("%s: removed, the exchange refuses it: %s", instrument, stream.reason)
            self._remove(stream)
        elif not kept:
            self._keep(stream)
        elif stream.status is SubscriptionStatus.ACCEPTED:
            self._unconfirmed.discard(instrument)
            self._announce()
            self._leave_to_another(stream)

    def _change_key(self, stream: Stream, matching_key: str) -> None:
        self._on_key(stream.instrument, matching_key)
        stream.set_matching_key(matching_key)
        if stream.instrument in self.matching_key:
            logger.info("%s: matching key %r from now on", stream.instrument, matching_key)
            self.matching_key[stream.instrument] = matching_key
            # The signal engine learns the group from the next push.
            stream.request_snapshot()
            self._announce()

    async def _move(self, instrument: Instrument, matching_key: str) -> tuple[SubscriptionStatus, str]:
        """Give an instrument that another collector serves this key."""
        if self.matching_key[instrument] != matching_key:
            logger.info("%s: matching key %r from now on", instrument, matching_key)
            self.matching_key[instrument] = matching_key
            if self._is_ours(matching_key):
                self._add_stream(instrument, matching_key)
                self._tasks.rebuild(self._streams.values())
            self._announce()
        await self._confirmed()
        return SubscriptionStatus.ACCEPTED, ""

    def _keep(self, stream: Stream) -> None:
        """Make the stream's instrument one of the subscriptions, and publish the map."""
        if stream.instrument not in self.matching_key:
            logger.info("%s: subscribed, matching key %r", stream.instrument, stream.matching_key)
            confirmed = stream.status is SubscriptionStatus.ACCEPTED
            self._enter(stream.instrument, stream.matching_key, confirmed=confirmed)
            self._announce()
        self._leave_to_another(stream)

    def _leave_to_another(self, stream: Stream) -> None:
        """End the stream of another collector's instrument once the exchange has answered."""
        answered = stream.status in {SubscriptionStatus.ACCEPTED, SubscriptionStatus.REFUSED}
        if answered and not self._is_ours(stream.matching_key):
            del self._streams[stream.instrument]
            self._tasks.rebuild(self._streams.values())

    def _enter(self, instrument: Instrument, matching_key: str, *, confirmed: bool) -> None:
        self.subscriptions.setdefault(instrument.channel, []).append(instrument.symbol)
        self.matching_key[instrument] = matching_key
        if not confirmed:
            self._unconfirmed.add(instrument)

    def _remove(self, stream: Stream) -> None:
        """End a stream and its subscription, and publish the map if that changes it."""
        del self._streams[stream.instrument]
        stream.answered.set()
        self._forget(stream.instrument)
        self._tasks.rebuild(self._streams.values())

    def _forget(self, instrument: Instrument) -> None:
        """End a subscription, and publish the map if that changes it."""
        channel, symbol = instrument
        self._unconfirmed.discard(instrument)
        if self.matching_key.pop(instrument, None) is not None:
            self.subscriptions[channel].remove(symbol)
            if not self.subscriptions[channel]:
                del self.subscriptions[channel]
            self._announce()

    def _announce(self) -> None:
        if self._restored:
            known = [Instrument(*instrument) for instrument in self.matching_key]
            saved = [
                SavedSubscription(each, self.matching_key[each], each not in self._unconfirmed)
                for each in known
            ]
            self._announced = self._publisher.publish_subscriptions(
                encode_subscriptions(known), encode_saved(saved)
            )

    async def _confirmed(self) -> None:
        """Wait until the broker has the subscriptions as they are, but not long."""
        if self._announced is not None and self._publisher.is_up:
            await asyncio.wait([self._announced], timeout=CONFIRM_SECONDS)

    # --- streams -----------------------------------------------------------------------------

    def _add_stream(self, instrument: Instrument, matching_key: str) -> Stream:
        self._on_key(instrument, matching_key)
        stream = Stream(instrument, matching_key, self._context, self._on_status)
        self._streams[instrument] = stream
        return stream
