"""The subscriptions, and the streams that serve them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from functools import partial
from typing import Annotated, Literal

import msgspec
from pika.channel import Channel
from pika.spec import Basic, BasicProperties

from blackbird.broker.session import Session, SessionLost, connection_parameters, keep_session
from blackbird.broker.topology import COLLECTOR_SUBSCRIPTIONS, RESYNC
from blackbird.bybit.connection_budget import ConnectionBudget
from blackbird.bybit.stream import Stream, StreamContext, SubscriptionStatus
from blackbird.collector.publisher import FeedPublisher
from blackbird.market.fields import InvalidMessage
from blackbird.market.instrument import Instrument
from blackbird.market.subscriptions import decode_resync, encode_subscriptions
from config import Config

logger = logging.getLogger(__name__)


# What a POST waits for: the exchange's answer, then the broker's.
ANSWER_SECONDS = 2.5
CONFIRM_SECONDS = 1.0
# How long the end waits: for sockets to close, then for the broker to take what is left.
CLOSE_SECONDS = 0.5
DRAIN_SECONDS = 2.5


class _Saved(msgspec.Struct):
    symbol: Annotated[str, msgspec.Meta(min_length=1)]
    matching_key: Annotated[str, msgspec.Meta(min_length=1)]


_decode_saved = msgspec.json.Decoder(
    dict[Literal["spot", "linear", "inverse", "option"], list[_Saved]]
).decode


class FeedManager:
    """The subscriptions and the streams that serve them."""

    def __init__(self) -> None:
        self.subscriptions: dict[str, list[str]] = {}
        self.matching_key: dict[tuple[str, str], str] = {}
        self.publisher = FeedPublisher(self._mend_gaps)
        # Streams of subscriptions, and of those that the exchange has not answered yet.
        self._streams: dict[Instrument, Stream] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._context = StreamContext(
            budget=ConnectionBudget(),
            on_push=self.publisher.publish_book,
            on_status=self._on_standing,
        )
        self._session: Session | None = None
        self._restored = False
        self._unsubscribed_early: set[Instrument] = set()
        # Done when a stream's task failed, which only a fault of this program makes it do.
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._announced: asyncio.Future[None] | None = None

    # --- subscriptions -----------------------------------------------------------------------

    async def subscribe(self, instrument: Instrument, matching_key: str) -> tuple[SubscriptionStatus, str]:
        """Subscribe, and return what the exchange thinks of it and why.

        It joins the subscriptions unless the exchange refuses it; an instrument that is there takes the key.
        """
        stream = self._streams.get(instrument)
        if stream is None:
            stream = Stream(instrument, matching_key, self._context)
            self._streams[instrument] = stream
            self._rebuild_tasks()
        elif stream.matching_key != matching_key:
            stream.set_matching_key(matching_key)
            if instrument in self.matching_key:
                logger.info("%s: matching key %r from now on", instrument, matching_key)
                self.matching_key[instrument] = matching_key
                # The signal engine learns the group from the next push.
                stream.request_snapshot()
                self._announce()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_SECONDS):
                await stream.answered.wait()
        if self._streams.get(instrument) is stream:
            self._keep(stream)
        await self._broker_knows()
        return stream.standing, stream.reason

    async def unsubscribe(self, instrument: Instrument) -> None:
        """End the subscription and its stream; nothing where there is none."""
        if not self._restored:
            self._unsubscribed_early.add(instrument)
        stream = self._streams.pop(instrument, None)
        if stream is None:
            return
        stream.close()
        if self.matching_key.pop(instrument, None) is not None:
            logger.info("%s: unsubscribed", instrument)
            symbols = self.subscriptions[instrument.channel]
            symbols.remove(instrument.symbol)
            if not symbols:
                del self.subscriptions[instrument.channel]
            self._announce()
        self._rebuild_tasks()
        await self._broker_knows()

    def group(self, matching_key: str) -> list[Instrument]:
        """Return the instruments with this matching key, those without an answer of the exchange included."""
        return [each for each, stream in self._streams.items() if stream.matching_key == matching_key]

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

    @property
    def is_saved(self) -> bool:
        """Whether the broker has the subscriptions as they are."""
        return self._restored and self.publisher.subscriptions_confirmed

    def _on_standing(self, stream: Stream) -> None:
        if self._streams.get(stream.instrument) is not stream or stream.instrument in self.matching_key:
            return
        if stream.standing is SubscriptionStatus.REFUSED:
            del self._streams[stream.instrument]
            stream.close()
            self._rebuild_tasks()
        else:
            self._keep(stream)

    def _keep(self, stream: Stream) -> None:
        """Make the stream's instrument one of the subscriptions; from here on only `unsubscribe` ends it."""
        if stream.instrument in self.matching_key:
            return
        channel, symbol = stream.instrument
        logger.info("%s: subscribed, matching key %r", stream.instrument, stream.matching_key)
        self.subscriptions.setdefault(channel, []).append(symbol)
        self.matching_key[stream.instrument] = stream.matching_key
        self._rebuild_tasks()
        self._announce()

    def _rebuild_tasks(self) -> None:
        """Replace all stream tasks by one for each stream; a stream's connection passes to its new task."""
        for task in self._tasks:
            task.cancel()
        self._tasks = [
            asyncio.create_task(stream.run(), name=str(instrument))
            for instrument, stream in self._streams.items()
        ]
        for task in self._tasks:
            task.add_done_callback(self._on_task_done)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None and not self.failure.done():
            self.failure.set_exception(error)

    def _announce(self) -> None:
        # Before what was saved is known, a map without it would put those instruments out.
        if self._restored:
            known = [Instrument(*instrument) for instrument in self.matching_key]
            self._announced = self.publisher.publish_subscriptions(
                encode_subscriptions(known), json.dumps(self.listed()).encode()
            )

    async def _broker_knows(self) -> None:
        """Wait until the broker has the subscriptions as they are, but not long."""
        if self._announced is not None and self.publisher.is_up:
            await asyncio.wait([self._announced], timeout=CONFIRM_SECONDS)

    # --- broker ------------------------------------------------------------------------------

    async def keep_publishing(self) -> None:
        """Keep a session with the broker until cancelled."""
        parameters = connection_parameters(**Config.BROKER_CONFIG, name="collector")
        await keep_session(parameters, self._serve_session)

    async def _serve_session(self, session: Session) -> None:
        await session.declare_feed()
        await session.declare_queue(COLLECTOR_SUBSCRIPTIONS)
        if not self._restored:
            saved = await session.peek(COLLECTOR_SUBSCRIPTIONS) if Config.RESTORE_SUBSCRIPTIONS else None
            self._restored = True
            if saved is not None:
                self._restore(saved[1])
            self._announce()
        await self.publisher.start(session)
        self._session = session
        queue = await session.declare_private_queue()
        await session.bind(queue, RESYNC)
        await session.consume(
            queue, self._on_resync, label=RESYNC, dead_letter=partial(self.publisher.dead_letter, RESYNC)
        )

    def _restore(self, body: bytes) -> None:
        try:
            saved = _decode_saved(body)
        except (msgspec.DecodeError, RecursionError) as error:
            logger.warning("what was saved of the subscriptions can't be understood: %s", error)
            return
        for channel, entries in saved.items():
            for entry in entries:
                instrument = Instrument(channel, entry.symbol)
                if instrument not in self._streams and instrument not in self._unsubscribed_early:
                    stream = Stream(instrument, entry.matching_key, self._context)
                    self._streams[instrument] = stream
                    self.subscriptions.setdefault(channel, []).append(entry.symbol)
                    self.matching_key[instrument] = entry.matching_key
        logger.info("%d subscriptions taken up again", len(self.matching_key))
        self._rebuild_tasks()

    def _on_resync(self, _: Channel, method: Basic.Deliver, properties: BasicProperties, body: bytes) -> None:
        try:
            instrument = decode_resync(body)
        except InvalidMessage as error:
            with contextlib.suppress(SessionLost):
                self.publisher.dead_letter(RESYNC, str(error), properties, body)
        else:
            stream = self._streams.get(instrument)
            if stream is None:
                logger.debug("%s: asked for a snapshot of it, but it is not subscribed", instrument)
            else:
                stream.request_snapshot()
        if self._session is not None:
            self._session.acknowledge(method.delivery_tag or 0)

    def _mend_gaps(self, instruments: set[Instrument]) -> None:
        for instrument in instruments:
            if (stream := self._streams.get(instrument)) is not None:
                stream.request_snapshot()

    # --- the end -----------------------------------------------------------------------------

    async def close(self) -> None:
        """Close all streams, then have the broker confirm what was taken."""
        for task in self._tasks:
            task.cancel()
        closing = [stream.close() for stream in self._streams.values()]
        deadline = asyncio.get_running_loop().time() + CLOSE_SECONDS
        while asyncio.get_running_loop().time() < deadline:
            if all(closed is None or closed.is_set() for closed in closing):
                break
            await asyncio.sleep(0.01)
        await self.publisher.drain(DRAIN_SECONDS)
