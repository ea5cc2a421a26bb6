"""Signal engine: keeps the books of each matching group, sends the orders that open and close spreads.

Here its parts are put together: `Signal` decides; `GroupLanes` takes messages to it in order, and its orders
to the `OrderManager`; `SubscriptionMap`, `SnapshotRequests` and `AckTracker` do what their names say. Where
the feed is divided, this is one of several engines, and `Partitions` stands between it and the broker.
"""

from __future__ import annotations

if __name__ == "__main__":
    import blackbird.runtime.early_signals  # noqa: F401 - handles SIGINT and SIGTERM while the rest is imported

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

from pika.channel import Channel
from pika.spec import Basic, BasicProperties

from blackbird.broker.parameters import BrokerParameters
from blackbird.broker.properties import published_at
from blackbird.broker.session import QueueInUse, Session, SessionLost, connection_parameters, keep_session
from blackbird.broker.status_publisher import reporting
from blackbird.broker.topology import EXCHANGE, ORDERS, PERSISTENT, QUOTE, RESYNC, SIGNAL
from blackbird.bybit.environment import OrderMode
from blackbird.market.book_message import decode_book
from blackbird.market.fields import InvalidMessage
from blackbird.market.instrument import Instrument
from blackbird.market.subscriptions import encode_resync
from blackbird.runtime.clock import milliseconds
from blackbird.runtime.failure_log import FailureLog
from blackbird.runtime.process import parse_arguments, run_service
from blackbird.runtime.status_report import Identity
from blackbird.signals.ack_tracker import AckTracker
from blackbird.signals.division import Division
from blackbird.signals.group_lane import GroupLanes, LaneContext, PendingUpdate
from blackbird.signals.order_manager import OrderManager
from blackbird.signals.partitions import Partitions
from blackbird.signals.quotes import QuotePublisher
from blackbird.signals.signal_status import SignalStatusSource
from blackbird.signals.snapshot_requests import SnapshotRequests
from blackbird.signals.subscription_map import SubscriptionMap
from blackbird.trading.pair_checks import Limits
from blackbird.trading.signal import Signal
from blackbird.trading.spread_rules import SpreadRules
from blackbird.trading.spreads import OpenSpreads, Pair, Spread
from config import Config, check_settings, log_settings

__all__ = ["OpenSpreads", "OrderManager", "Pair", "Signal", "SignalService", "Spread"]

logger = logging.getLogger(__name__)

PREFETCH = 2000
# Of each partition at least so many: messages wait while one that led to an order does.
LEAST_PREFETCH = 500
HOUSEKEEPING_SECONDS = 0.05  # between acknowledgements, and between looks at which snapshots are due
STOP_SECONDS = 3.0  # for the replies to orders in flight


class SignalService:
    """The signal engine between broker and trading engine."""

    def __init__(
        self,
        broker: BrokerParameters,
        signal: Signal,
        orders: OrderManager,
        failures: FailureLog,
        *,
        engine: int = 0,
        engines: int = 1,
    ) -> None:
        self._broker = broker
        self._signal = signal
        self._orders = orders
        self._failures = failures
        self._session: Session | None = None
        self._acks = AckTracker(self._acknowledge)
        layout = broker.layout
        division = Division(layout, signal.keeper) if layout.partitions else None
        context = LaneContext(
            signal, orders, self._acks, failures, self._reject, keeps_ordering=division is not None
        )
        self._lanes = GroupLanes(context, division)
        self._map = SubscriptionMap(self._apply_subscriptions, failures)
        self._snapshots = SnapshotRequests(self._request_snapshot, self._gaps_of)
        self._partitions: Partitions | None = None
        if division is not None:
            self._partitions = Partitions(
                signal,
                self._lanes,
                division,
                self._snapshots.request,
                partitions=layout.partitions,
                engine=engine,
                engines=engines,
            )
        self._prefetch = max(PREFETCH // max(layout.partitions, 1), LEAST_PREFETCH)
        self._quotes = QuotePublisher(
            signal.keeper, self._lanes.last_updates.get, self._publish_quote, milliseconds
        )
        self.status = SignalStatusSource(
            signal,
            self._lanes,
            orders.log,
            failures,
            is_connected=lambda: self._session is not None and self._session.is_open,
            snapshots_requested=lambda: self._snapshots.total,
        )
        self._tick_ages = self.status.tick_age.tally
        # Another process has the queue: the first time it may be what is left of our own last session.
        self._was_overtaken = False

    async def serve(self, stop: asyncio.Event) -> None:
        """Work until `stop`; then wait for the replies to orders in flight, at most 3 s."""
        if self._partitions is None:
            self._lanes.ask_open_spreads()
        tasks: list[asyncio.Task[Any]] = [
            asyncio.create_task(keep_session(self._broker, self._open)),
            asyncio.create_task(self._repeat(HOUSEKEEPING_SECONDS, "acknowledging", self._acks.flush)),
            asyncio.create_task(
                self._repeat(HOUSEKEEPING_SECONDS, "requesting snapshots", self._update_requests)
            ),
            asyncio.create_task(self._publish_quotes()),
        ]
        stopping: asyncio.Task[Any] = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
            await self._finish()
        finally:
            self._orders.close()
            for task in (*tasks, stopping):
                task.cancel()
            await asyncio.wait(tasks, timeout=2)

    async def _open(self, session: Session) -> None:
        """Take the books of all groups, or of this engine's partitions; begin with what is subscribed."""
        self._acks.restart()
        self._lanes.restart()
        await session.declare_feed()
        await session.declare_queue(ORDERS)
        await session.set_prefetch(self._prefetch)
        self._session = session
        if self._partitions is None:
            await self._take_all(session)
        else:
            await self._orders.attach(session)
            await self._partitions.open(session, self._on_delivery)

    async def _take_all(self, session: Session) -> None:
        """Take the book queue for this engine alone; begin with the newest subscription map."""
        try:
            # The consumer of this queue is the signal engine; a second one waits here.
            await self._map.follow(session)
        except QueueInUse:
            if self._was_overtaken:
                # The other one takes the book messages, and trades.
                for instrument in list(self._signal.keeper.books):
                    self._signal.keeper.invalidate(instrument)
            self._was_overtaken = True
            raise
        self._was_overtaken = False
        for instrument in self._signal.keeper.subscribed:
            self._snapshots.request(instrument)
        await self._orders.attach(session)
        await session.consume(SIGNAL, self._on_delivery, exclusive=True)

    def _apply_subscriptions(self, instruments: Sequence[Instrument]) -> None:
        self._signal.on_subscriptions(instruments)
        self._lanes.remove_idle()

    # --- books -----------------------------------------------------------------------------------

    def _on_delivery(
        self, _: Channel, deliver: Basic.Deliver, properties: BasicProperties, body: bytes
    ) -> None:
        tag = deliver.delivery_tag or 0
        taken_ms = milliseconds()
        published = published_at(properties)
        # A time in the future would keep a book young for ever.
        received_ms = taken_ms if published is None or published > taken_ms else published
        try:
            message = decode_book(body)
            self._tick_ages[taken_ms - message.ts] += 1
            self._lanes.receive(PendingUpdate(tag, message, received_ms, taken_ms, body, properties))
        except InvalidMessage as error:
            self._dead_letter(str(error), properties, body)
        self._acks.delivered(tag)

    def _reject(self, update: PendingUpdate, reason: str) -> None:
        self._dead_letter(reason, update.properties, update.body)

    def _dead_letter(self, reason: str, properties: BasicProperties, body: bytes) -> None:
        with contextlib.suppress(SessionLost):
            if self._session is not None:
                self._session.dead_letter(SIGNAL, reason, properties, body)

    def _acknowledge(self, delivery_tag: int) -> None:
        if self._session is not None:
            self._session.acknowledge(delivery_tag, multiple=True)

    # --- quotes ----------------------------------------------------------------------------------

    async def _publish_quotes(self) -> None:
        publish = self._failures.guard("publishing quotes", self._quotes.publish)
        while True:
            publish(await self._quotes.wait())

    def _publish_quote(self, body: bytes) -> None:
        properties = BasicProperties(delivery_mode=PERSISTENT, content_type="application/json")
        # Without a session the second is left out: the books stand still.
        with contextlib.suppress(SessionLost):
            if self._session is not None:
                self._session.publish(EXCHANGE, QUOTE, body, properties)

    # --- snapshots -------------------------------------------------------------------------------

    def _update_requests(self) -> None:
        if self._session is not None and self._session.is_open:
            self._snapshots.update(self._signal.keeper.needs_snapshot)
            if self._partitions is not None:
                self._partitions.release_idle()

    def _request_snapshot(self, instrument: Instrument) -> None:
        with contextlib.suppress(SessionLost):
            if self._session is not None:
                self._session.publish(EXCHANGE, RESYNC, encode_resync(instrument), BasicProperties())

    def _gaps_of(self, instrument: Instrument) -> int:
        book = self._signal.keeper.books.get(instrument)
        return 0 if book is None else book.gaps

    async def _repeat(self, seconds: float, what: str, work: Callable[[], None]) -> None:
        guarded = self._failures.guard(what, work)
        while True:
            await asyncio.sleep(seconds)
            guarded()

    async def _finish(self) -> None:
        deadline = asyncio.get_running_loop().time() + STOP_SECONDS
        self._lanes.stop_trading()
        while self._lanes.have_orders_in_flight and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.01)
        self._acks.flush()


def main() -> None:
    """Run the signal service."""
    parse_arguments(__doc__)
    check_settings()
    limits = Limits(
        stale_after_ms=Config.MAX_BOOK_AGE_MS,
        max_lag_ms=Config.MAX_LAG_MS,
        max_book_lag_ms=Config.MAX_BOOK_LAG_MS,
        max_price_ratio=Config.MAX_PRICE_RATIO,
    )
    rules = SpreadRules(
        close_rule=Config.CLOSE_RULE,
        taker_fees={"spot": Config.TAKER_FEE_SPOT, "linear": Config.TAKER_FEE_LINEAR},
        min_profit_bps=Config.MIN_PROFIT_BPS,
    )
    signal = Signal(
        clock=milliseconds,
        order_timeout_ms=Config.ORDER_TIMEOUT_MS,
        limits=limits,
        rules=rules,
        consecutive=Config.CONSECUTIVE_UPDATES,
    )
    failures = FailureLog()
    broker = connection_parameters(**Config.BROKER_CONFIG, name="signal engine")
    service = SignalService(
        broker,
        signal,
        OrderManager(failures),
        failures,
        engine=Config.SIGNAL_ENGINE,
        engines=Config.SIGNAL_ENGINES,
    )
    mode = OrderMode.of(**Config.ORDER_CONFIG)

    async def serve(stop: asyncio.Event) -> None:
        status = connection_parameters(**Config.BROKER_CONFIG, name="signal engine status")
        identity = Identity("signal", mode.name, str(mode))
        async with reporting(identity, service.status, status, **Config.STATUS_CONFIG):
            await service.serve(stop)

    run_service(
        "signal engine",
        serve,
        mode=mode,
        log_level=Config.LOG_LEVEL,
        log_format=Config.LOG_FORMAT,
        alive_file=Config.ALIVE_FILE,
        on_start=log_settings,
    )


if __name__ == "__main__":
    main()
