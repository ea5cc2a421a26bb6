"""Groups side by side: what waits for whose reply, what is acknowledged, what a programming error costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal

from pika.spec import BasicProperties

from blackbird.market.book_message import BookMessage
from blackbird.market.instrument import Instrument
from blackbird.runtime.failure_log import FailureLog
from blackbird.signals.ack_tracker import AckTracker
from blackbird.signals.group_lane import GroupLanes, LaneContext, PendingUpdate
from blackbird.trading.orders import NOT_ACK, OpenSpread, Order, Reply
from blackbird.trading.pair_checks import Limits, Reason
from blackbird.trading.signal import Signal
from blackbird.trading.spread_rules import SpreadRules
from blackbird.trading.spreads import Pair
from tests.support.market import PLACED, REFUSED, book_message

Side = list[tuple[str, str]]
A = Instrument("spot", "A")
B = Instrument("linear", "B")
C = Instrument("spot", "C")
D = Instrument("linear", "D")
UNKNOWN_SPREAD = Reply(NOT_ACK, "invalid order: spread_id: expected an open spread")


class Orders:
    """Keeps the orders in flight; the test answers them."""

    def __init__(self) -> None:
        self.in_flight: list[tuple[Order, Callable[[Reply], None]]] = []
        self.questions: list[Callable[[Reply], None]] = []

    def send(self, order: Order, on_reply: Callable[[Reply], None]) -> None:
        self.in_flight.append((order, on_reply))

    def open_spreads(self, on_reply: Callable[[Reply], None]) -> None:
        self.questions.append(on_reply)

    def answer(self, reply: Reply = PLACED, number: int = 0) -> Order:
        order, on_reply = self.in_flight.pop(number)
        on_reply(reply)
        return order

    def answer_question(self, *spreads: OpenSpread) -> None:
        self.questions.pop(0)(Reply("ACK", "open spreads", list(spreads)))

    @property
    def legs(self) -> list[tuple[Instrument, Instrument]]:
        return [(order.buy, order.sell) for order, _ in self.in_flight]


class ManualTimer:
    """A timer that the test lets expire."""

    def __init__(self, expire: Callable[[], None]) -> None:
        self.expire = expire
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class FailingRules(SpreadRules):
    """The owner's rules with a programming error in those of some pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.broken: set[Pair] = set()

    def opens(self, pair: Pair, ask: Decimal, bid: Decimal) -> bool:
        if pair in self.broken:
            raise KeyError(pair)
        return super().opens(pair, ask, bid)


class FailingSignal(Signal):
    """A signal core that fails on one instrument's messages."""

    def on_book(self, message: BookMessage, received_ms: int, taken_ms: int | None = None) -> Sequence[Pair]:
        if message.instrument == C:
            raise ZeroDivisionError
        return super().on_book(message, received_ms, taken_ms)


class Scene:
    """Lanes that know which spreads are open, none; deliveries are numbered from 1."""

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        kind: type[Signal] = Signal,
        know_spreads: bool = True,
        keeps_ordering: bool = False,
    ) -> None:
        self.now = 1_000_000
        self.rules = FailingRules()
        self.signal = kind(clock=lambda: self.now, limits=limits, rules=self.rules)
        self.keeper = self.signal.keeper
        self.orders = Orders()
        self.timers: list[ManualTimer] = []
        self.failures = FailureLog()
        self.rejected: list[tuple[Instrument, str]] = []
        self.acknowledged = 0
        self._acks = AckTracker(self._acknowledge)
        self.lanes = GroupLanes(
            LaneContext(
                self.signal,
                self.orders,
                self._acks,
                self.failures,
                self._reject,
                self._start_timer,
                clock=lambda: self.now + 7,
                keeps_ordering=keeps_ordering,
            )
        )
        self._delivered = 0
        self._last: dict[Instrument, int] = {}
        if know_spreads:
            self.lanes.ask_open_spreads()
            self.orders.answer_question()

    def restart(self) -> None:
        """Begin a new session, with new delivery tags."""
        self._delivered = 0
        self._acks.restart()
        self.lanes.restart()

    def _acknowledge(self, tag: int) -> None:
        self.acknowledged = tag

    def _reject(self, update: PendingUpdate, reason: str) -> None:
        self.rejected.append((update.message.instrument, reason))

    def _start_timer(self, seconds: float, callback: Callable[[], None]) -> ManualTimer:
        assert seconds == 1
        self.timers.append(ManualTimer(callback))
        return self.timers[-1]

    def book(
        self,
        instrument: Instrument,
        bids: Side,
        asks: Side,
        *,
        key: str = "a",
        kind: str = "snapshot",
        age_ms: int = 0,
    ) -> None:
        self._delivered += 1
        u = self._last[instrument] = self._last.get(instrument, 0) + 1
        message = book_message(kind, u, bids, asks, instrument=instrument, key=key, time=self._delivered)
        received_ms = self.now - age_ms
        properties = BasicProperties(headers={"published_at": received_ms - 1})
        self.lanes.receive(PendingUpdate(self._delivered, message, received_ms, self.now, b"", properties))
        self._acks.delivered(self._delivered)
        self._acks.flush()

    def answer(self, reply: Reply = PLACED, number: int = 0) -> Order:
        order = self.orders.answer(reply, number)
        self._acks.flush()
        return order

    def become_late(self) -> None:
        """Let the newest order's reply be late."""
        self.timers[-1].expire()

    def crossed_pair(self) -> None:
        self.book(B, [("99", "1")], [("100", "1")])
        self.book(A, [("101", "1")], [("102", "1")])


def test_nothing_is_acknowledged_beyond_the_oldest_message_that_waits() -> None:
    scene = Scene()
    scene.crossed_pair()
    assert scene.acknowledged == 2
    scene.book(A, [("98", "1")], [("102", "1")])
    scene.book(C, [("5", "1")], [("6", "1")], key="c")
    scene.book(D, [("7", "1")], [("8", "1")], key="c")
    scene.book(C, [("5", "2")], [("6", "2")], key="c")
    assert scene.orders.legs == [(B, A), (C, D)]
    assert scene.acknowledged == 2
    scene.answer(number=1)
    assert scene.acknowledged == 2
    scene.answer(number=0)
    assert scene.acknowledged == 6


def test_late_reply_lets_books_go_on_in_order_but_not_those_that_move() -> None:
    scene = Scene()
    scene.book(C, [("5", "1")], [("90", "1")], key="c")
    scene.crossed_pair()
    scene.book(B, [("98", "1")], [], kind="delta")
    scene.book(A, [("95", "3")], [("102", "1")], key="c")
    scene.book(B, [("97", "1")], [], kind="delta")
    scene.become_late()
    scene.book(A, [("96", "3")], [], key="c", kind="delta")
    scene.book(B, [("98", "0")], [], kind="delta")
    scene.book(A, [("97", "3")], [], kind="delta", key="c")
    scene.book(C, [("5", "1")], [("94", "1")], key="c")
    # B has gone on, A has not, and what A does in its new group is not known yet.
    assert scene.keeper.books[B].update_id == 4
    assert sorted(scene.keeper.books[B].bids.available()) == [97, 99]
    assert scene.keeper.books[A].update_id == 1
    assert scene.keeper.key_of(A) == "a"
    assert scene.acknowledged == 4
    assert len(scene.orders.in_flight) == 1
    assert scene.answer().buy == B
    assert scene.keeper.key_of(A) == "c"
    assert scene.lanes.keys == ["c", "a"]
    # One order at 95; those that wait for its reply bring 96 and 97.
    assert [(order.sell, order.sell_price) for order, _ in scene.orders.in_flight] == [(A, Decimal(95))]
    assert scene.acknowledged == 6
    scene.answer()
    assert scene.keeper.books[A].gaps == 0
    assert scene.keeper.books[A].update_id == 4
    assert scene.acknowledged == 10


def test_reply_in_time_cancels_its_timer() -> None:
    scene = Scene()
    scene.crossed_pair()
    assert not scene.timers[0].is_cancelled
    scene.answer()
    assert scene.timers[0].is_cancelled


def test_instrument_that_moves_and_moves_back_waits_with_all_of_its_messages() -> None:
    scene = Scene()
    scene.crossed_pair()
    scene.book(A, [("98", "1")], [("102", "1")], key="c")
    scene.book(A, [("97", "1")], [], kind="delta", key="a")
    scene.become_late()
    assert scene.keeper.books[A].update_id == 1
    scene.answer()
    assert scene.keeper.books[A].update_id == 3
    assert scene.keeper.key_of(A) == "a"


def test_instrument_that_moves_to_a_busy_group_is_scanned_when_its_order_is_answered() -> None:
    scene = Scene()
    scene.crossed_pair()
    scene.book(C, [("103", "2")], [("104", "2")], key="c")
    scene.book(C, [("103", "2")], [("104", "2")], key="a")
    assert scene.keeper.key_of(C) == "a"
    assert "c" not in scene.lanes.keys
    assert scene.orders.legs == [(B, A)]
    scene.answer(REFUSED)
    assert scene.orders.legs == [(B, C)]


def test_lane_of_a_group_that_is_gone_is_removed_when_its_order_is_answered() -> None:
    scene = Scene()
    scene.crossed_pair()
    scene.become_late()
    scene.signal.on_subscriptions([])
    scene.lanes.remove_idle()
    assert scene.lanes.keys == ["a"]
    assert scene.lanes.have_orders_in_flight
    scene.answer()
    scene.lanes.remove_idle()
    assert scene.lanes.keys == []
    assert not scene.lanes.have_orders_in_flight


def test_spread_that_the_engine_does_not_know_stops_the_orders_of_every_group() -> None:
    scene = Scene()
    scene.crossed_pair()
    scene.book(D, [("9", "1")], [("10", "1"), ("10.5", "1")], key="c")
    scene.book(C, [("11", "2")], [("12", "1")], key="c")
    scene.answer(UNKNOWN_SPREAD)
    assert len(scene.orders.questions) == 1
    scene.answer()
    scene.book(A, [("103", "1")], [("104", "1")])
    assert scene.orders.in_flight == []
    scene.orders.answer_question()
    assert [(order.buy, order.buy_price) for order, _ in scene.orders.in_flight] == [
        (B, Decimal(100)),
        (D, Decimal("10.5")),
    ]


def test_nothing_is_ordered_before_the_open_spreads_are_known() -> None:
    scene = Scene(know_spreads=False)
    scene.lanes.ask_open_spreads()
    scene.crossed_pair()
    assert scene.orders.in_flight == []
    scene.orders.answer_question(OpenSpread("s", A, B, Decimal(9), Decimal(4)))
    assert scene.orders.legs == [(B, A)]
    assert [spread.spread_id for spread in scene.signal.spreads] == ["s"]


def test_new_session_drops_what_waits_and_asks_again_which_spreads_are_open() -> None:
    scene = Scene()
    scene.crossed_pair()
    scene.book(A, [("103", "5")], [("104", "1")])
    scene.lanes.restart()
    assert len(scene.orders.questions) == 1
    scene.answer()
    assert scene.keeper.books[A].update_id == 1
    assert scene.orders.in_flight == []
    scene.lanes.restart()
    assert len(scene.orders.questions) == 1, "it was asked for already"


# --- backlogs ------------------------------------------------------------------------------------

LAG = Limits(max_lag_ms=1000)


def test_messages_that_waited_too_long_for_a_reply_are_all_applied_before_the_group_is_scanned() -> None:
    scene = Scene(limits=LAG)
    scene.book(B, [("90", "1")], [("100", "1"), ("100.5", "9")])
    scene.book(A, [("101", "9")], [("110", "1")])
    scene.now += 100
    scene.book(A, [("104", "9")], [("110", "1")])
    scene.book(A, [("99", "9")], [("110", "1")])
    scene.book(A, [("103", "9")], [("110", "1")])
    scene.now += 1001
    # Neither the scan in progress (100.5 against 101) nor those of 104 and 99 are gone through with.
    scene.answer()
    assert [order.sell_price for order, _ in scene.orders.in_flight] == [103]
    assert scene.acknowledged == 5


def test_messages_that_waited_too_long_are_all_applied_in_the_group_that_they_move_to() -> None:
    scene = Scene(limits=LAG)
    scene.book(C, [("5", "9")], [("90", "9")], key="c")
    scene.crossed_pair()
    for bid in ("95", "96", "97"):
        scene.book(A, [(bid, "3")], [("102", "1")], key="c")
    scene.now += 1001
    scene.answer()
    assert [(order.sell, order.sell_price) for order, _ in scene.orders.in_flight] == [(A, Decimal(97))]


def test_messages_that_wait_a_short_time_are_scanned_one_by_one() -> None:
    scene = Scene(limits=LAG)
    scene.crossed_pair()
    scene.book(A, [("101", "2")], [("102", "1")])
    scene.book(B, [("99", "1")], [("100", "3")])
    scene.now += 1000
    scene.answer()
    assert scene.keeper.books[B].update_id == 2
    assert scene.orders.in_flight[0][0].size == 2


def test_backlog_of_the_broker_is_applied_without_an_order_until_the_group_has_caught_up() -> None:
    scene = Scene(limits=LAG)
    for age_ms in (9000, 5000, 1001):
        scene.book(B, [("99", "1")], [("100", "1")], age_ms=age_ms)
        scene.book(A, [("101", str(age_ms))], [("102", "1")], age_ms=age_ms)
    scene.book(C, [("5", "1")], [("6", "1")], key="c")
    scene.book(D, [("7", "1")], [("8", "1")], key="c")
    assert scene.orders.legs == [(C, D)], "another group does not wait"
    scene.book(B, [("99", "1")], [("100", "0.5")], age_ms=1000)
    assert scene.orders.legs == [(C, D), (B, A)]
    assert scene.orders.in_flight[1][0].size == Decimal("0.5")
    assert scene.signal.checks.untraded == {(Reason.BACKLOG, "group a"): 6}


def test_group_with_a_backlog_is_not_scanned_when_the_open_spreads_become_known() -> None:
    scene = Scene(limits=LAG, know_spreads=False)
    scene.lanes.ask_open_spreads()
    scene.book(B, [("99", "1")], [("100", "1")], age_ms=1001)
    scene.book(A, [("101", "1")], [("102", "1")], age_ms=1001)
    scene.orders.answer_question()
    assert scene.orders.in_flight == []
    scene.book(A, [("101", "2")], [("102", "1")])
    assert scene.orders.legs == [(B, A)]


# --- programming errors --------------------------------------------------------------------------


def test_error_in_a_scan_puts_the_message_aside_and_its_book_out_of_sync_and_other_groups_go_on() -> None:
    scene = Scene()
    scene.rules.broken.add(Pair(B, A))
    scene.crossed_pair()
    assert [instrument for instrument, _ in scene.rejected] == [A]
    assert "KeyError" in scene.rejected[0][1]
    assert scene.keeper.needs_snapshot == {A}
    assert not scene.keeper.books[A].in_sync
    scene.book(D, [("9", "1")], [("10", "1")], key="c")
    scene.book(C, [("11", "1")], [("12", "1")], key="c")
    assert scene.orders.legs == [(D, C)]
    scene.rules.broken.clear()
    scene.book(A, [("101", "1")], [("102", "1")])
    assert scene.orders.legs == [(D, C), (B, A)]
    assert scene.acknowledged == 5


def test_error_while_a_reply_is_booked_asks_which_spreads_are_open_and_for_both_books() -> None:
    scene = Scene()
    scene.book(B, [("99", "1")], [("100", "1"), ("100.5", "1")])
    scene.book(A, [("101", "2")], [("102", "1")])
    scene.rules.broken.add(Pair(B, A))
    scene.answer()
    assert scene.keeper.needs_snapshot == {A, B}
    assert len(scene.orders.questions) == 1
    assert not scene.lanes.have_orders_in_flight
    scene.orders.answer_question(OpenSpread("s", B, A, Decimal(1), Decimal(1)))
    scene.book(D, [("9", "1")], [("10", "1")], key="c")
    scene.book(C, [("11", "1")], [("12", "1")], key="c")
    assert scene.orders.legs == [(D, C)]


def test_error_in_a_book_update_puts_the_message_aside_and_the_group_goes_on() -> None:
    scene = Scene(kind=FailingSignal)
    scene.book(C, [("5", "1")], [("6", "1")])
    assert [instrument for instrument, _ in scene.rejected] == [C]
    scene.crossed_pair()
    assert scene.orders.legs == [(B, A)]
    assert scene.acknowledged == 3


def test_error_in_the_scan_after_a_restore_costs_only_its_own_group() -> None:
    scene = Scene(know_spreads=False)
    scene.lanes.ask_open_spreads()
    scene.rules.broken.add(Pair(B, A))
    scene.crossed_pair()
    scene.book(D, [("9", "1")], [("10", "1")], key="c")
    scene.book(C, [("11", "1")], [("12", "1")], key="c")
    scene.orders.answer_question()
    assert scene.orders.legs == [(D, C)]
    assert scene.keeper.needs_snapshot == {A, B}


def test_levels_that_are_no_prices_are_put_aside_and_change_nothing() -> None:
    scene = Scene()
    scene.crossed_pair()
    scene.answer(REFUSED)
    scene.book(A, [("-1", "1")], [], kind="delta")
    assert [instrument for instrument, _ in scene.rejected] == [A]
    assert scene.keeper.books[A].in_sync
    assert scene.failures.counts == {}


def test_last_message_that_a_book_has_seen_is_kept_until_its_instrument_is_gone() -> None:
    scene = Scene()
    scene.crossed_pair()
    scene.book(A, [("98", "1")], [("102", "1")])
    last = scene.lanes.last_updates
    assert {key: update.delivery_tag for key, update in last.items()} == {B: 1, A: 2}
    scene.answer()
    assert last[A].delivery_tag == 3
    scene.signal.on_subscriptions([B])
    scene.lanes.remove_idle()
    assert set(last) == {B}


def test_message_that_is_applied_while_a_reply_is_late_is_the_last_that_its_book_has_seen() -> None:
    scene = Scene()
    scene.crossed_pair()
    scene.book(A, [("98", "1")], [("102", "1")])
    scene.become_late()
    assert scene.lanes.last_updates[A].delivery_tag == 3


def test_order_has_the_times_that_its_latency_is_measured_by() -> None:
    scene = Scene()
    scene.book(B, [("99", "1")], [("100", "1")])
    scene.now += 20
    scene.book(A, [("101", "1")], [("102", "1")], age_ms=3)
    ((order, _),) = scene.orders.in_flight
    assert (order.published_buy, order.received_buy) == (999_999, 1_000_000)
    assert (order.published_sell, order.received_sell) == (1_000_016, 1_000_020)
    assert order.decided_at == 1_000_027


def test_message_that_led_to_an_order_is_kept_until_the_order_is_answered() -> None:
    scene = Scene(keeps_ordering=True)
    scene.crossed_pair()
    scene.book(C, [("5", "1")], [("6", "1")], key="c")
    assert scene.acknowledged == 1
    scene.book(A, [("101.5", "1")], [("103", "1")])
    scene.answer()
    # B's book is used up: the message that waited has led to nothing.
    assert scene.orders.legs == []
    assert scene.acknowledged == 4
    scene.book(B, [("99", "1")], [("100.5", "1")])
    assert scene.acknowledged == 4
    scene.answer(REFUSED)
    assert scene.acknowledged == 5


def test_message_that_led_to_an_order_is_kept_no_longer_than_the_answer_is_in_time() -> None:
    scene = Scene(keeps_ordering=True)
    scene.crossed_pair()
    scene.become_late()
    scene.book(C, [("5", "1")], [("6", "1")], key="c")
    assert scene.acknowledged == 3


def test_new_session_keeps_nothing_of_the_one_before() -> None:
    scene = Scene(keeps_ordering=True)
    scene.crossed_pair()
    scene.restart()
    scene.book(C, [("5", "1")], [("6", "1")], key="c")
    assert scene.acknowledged == 1
    scene.answer(REFUSED)
    scene.book(C, [("5", "1")], [("6", "1")], key="c")
    assert scene.acknowledged == 2
