"""What is known of one order at the exchange, from its intent to its end.

    planned --sent--> sent --accepted--> taken --over, and all its fills are here--> done
                       |---proven not to be there--> refused
                       |---anything else--> unknown --looked up--> taken, sent once more, or refused

A fill proves that the exchange has the order, in every phase. An unknown order is asked about, never guessed.
Times are milliseconds since 1970.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Literal

import msgspec

from blackbird.market.decimals import EXACT, ZERO
from blackbird.trading.leg_order import Fill, Final, LegEvent, LegOrder, LegRefused, NotFound, Taken, Unknown

Phase = Literal["planned", "sent", "taken", "unknown", "refused", "done"]

# Fills and the end of an order are pushed within milliseconds; after this they are asked for.
PUSH_PATIENCE_MS = 500
# The same while nothing is pushed.
NO_PUSH_PATIENCE_MS = 50
# Between look-ups of one order.
LOOK_UP_PAUSES_MS = (250, 500, 1000, 2000, 4000)
# An order is taken at its deadline at the latest. It can be looked up soon after; look-ups have been seen to
# lag by 10 to 15 s, in which case the push of its fill tells, unless pushes may have been missed.
LOOK_UP_LAG_MS = 3_000
LONGEST_LOOK_UP_LAG_MS = 15_000
LEAST_ROUNDS = 3
# A look-up that finds nothing may be too early: it takes two before the same order is sent once more.
ROUNDS_BEFORE_REPEAT = 2
MOST_SENDINGS = 2
# An accepted order that the exchange has forgotten is over, and its fills are kept for longer than that.
FORGOTTEN_MS = 3_600_000

NOT_SENT = "not sent"


class SentOrder(msgspec.Struct):
    """One order of a trade: what is known of it, and when it has to be asked about next.

    After its `deadline` the exchange does not take it any more. `may_repeat`: the same order may be sent once
    more when its request was lost. `ended_at` is when it was known to be over.
    """

    order: LegOrder
    deadline: int
    may_repeat: bool = False
    phase: Phase = "planned"
    refusal: LegRefused | None = None
    fills: dict[str, Fill] = {}
    cumulative: Decimal | None = None
    sendings: int = 0
    rounds: int = 0  # look-ups in a row that found nothing
    failures: int = 0  # look-ups in a row that failed
    asked_at: int | None = None  # when the look-up began that is under way
    look_up_at: int | None = None
    is_recovered: bool = False
    ended_at: int | None = None

    @property
    def link_id(self) -> str:
        """The order's link id."""
        return self.order.link_id

    @property
    def is_over(self) -> bool:
        """Return whether all that came of the order is known."""
        return self.phase in {"refused", "done"}

    @property
    def is_unasked(self) -> bool:
        """Return whether the exchange has said nothing of the order since it was sent or resumed."""
        return self.phase in {"planned", "sent", "unknown"} and not (self.rounds or self.failures)

    @property
    def filled(self) -> Decimal:
        """The base coin that was filled, fees included."""
        total = ZERO
        for fill in self.fills.values():
            total = EXACT.add(total, fill.quantity)
        return total

    def send(self) -> None:
        """Take note that the order is sent now."""
        self.phase = "sent"
        self.sendings += 1
        self.look_up_at = None

    def resume(self, now: int) -> None:
        """Take an order up again that an earlier process sent, or was about to send."""
        if self.is_over:
            return
        self.is_recovered = True
        self.rounds = self.failures = 0
        self.asked_at = None
        self.look_up_at = now
        if self.phase != "taken":
            self.phase = "unknown"

    def take(self, event: LegEvent, now: int, *, pushes_missed: bool = False) -> None:
        """Take note of what was reported; of look-ups tell `looked_up`.

        `pushes_missed`: there may have been pushes since the order was sent that did not arrive.
        """
        if isinstance(event, Fill):
            self._on_fill(event, now)
        elif isinstance(event, Final):
            self.cumulative = max(event.cumulative, self.cumulative or ZERO)
            self._on_taken(now)
        elif isinstance(event, Taken):
            self._on_taken(now, patience=NO_PUSH_PATIENCE_MS if pushes_missed else PUSH_PATIENCE_MS)
        elif isinstance(event, LegRefused):
            self._on_refused(event, now)
        elif isinstance(event, Unknown):
            self._on_unknown(now)
        else:
            self._on_not_found(now, now, pushes_missed=pushes_missed)

    def begin_look_up(self, now: int) -> bool:
        """Return whether the order is to be looked up now, which it then counts as being."""
        if self.asked_at is not None or self.look_up_at is None or self.look_up_at > now:
            return False
        self.asked_at, self.look_up_at = now, None
        return True

    def looked_up(self, events: Iterable[LegEvent], now: int, *, pushes_missed: bool) -> None:
        """Take note of what a look-up found."""
        asked_at, self.asked_at = self.asked_at, None
        self.failures = 0
        for event in events:
            if isinstance(event, NotFound):
                self._on_not_found(now if asked_at is None else asked_at, now, pushes_missed=pushes_missed)
            else:
                self.rounds = 0
                self.take(event, now)
        if self.phase == "taken":
            # It is there, and not over, or not all of its fills can be seen yet.
            self.look_up_at = now + _pause(self.rounds)

    def look_up_failed(self, now: int) -> None:
        """Take note that a look-up failed, which says nothing of the order."""
        self.asked_at = None
        self.failures += 1
        if not self.is_over and self.phase != "planned":
            self.look_up_at = now + _pause(self.failures - 1)

    def _on_fill(self, fill: Fill, now: int) -> None:
        self.fills.setdefault(fill.exec_id, fill)
        self._on_taken(now)

    def _on_taken(self, now: int, patience: int = PUSH_PATIENCE_MS) -> None:
        if self.cumulative is not None and self.filled >= self.cumulative:
            self._end("done", now)
            return
        if self.phase == "done":
            return
        self.refusal = self.ended_at = None
        if self.phase != "taken":
            self.phase = "taken"
            self.rounds = 0
        self._look_up_by(now + patience)

    def _on_refused(self, refusal: LegRefused, now: int) -> None:
        if self.sendings > 1:
            # It proves that the second sending was not taken. The first may have been.
            self._on_unknown(now)
        elif self.phase in {"planned", "sent", "unknown"}:
            self.refusal = refusal
            self._end("refused", now)

    def _on_unknown(self, now: int) -> None:
        if self.phase in {"planned", "sent"}:
            self.phase = "unknown"
            self._look_up_by(now)

    def _on_not_found(self, asked_at: int, now: int, *, pushes_missed: bool) -> None:
        self.rounds += 1
        if self.phase == "taken":
            if now >= self.deadline + FORGOTTEN_MS and self.rounds >= LEAST_ROUNDS:
                self.cumulative = self.filled
                self._end("done", now)
        elif self.phase == "unknown":
            is_certain_at = self._is_certain_at(pushes_missed=pushes_missed)
            if self._may_be_repeated(now):
                self.phase = "planned"
                self.rounds = 0
            elif self.rounds >= LEAST_ROUNDS and asked_at >= is_certain_at:
                self.refusal = LegRefused(self.link_id, 0, NOT_SENT)
                self._end("refused", now)
            else:
                later = now + _pause(self.rounds - 1)
                self.look_up_at = later if now >= is_certain_at else min(later, is_certain_at)

    def _may_be_repeated(self, now: int) -> bool:
        return (
            self.may_repeat
            and not self.is_recovered
            and self.sendings < MOST_SENDINGS
            and self.rounds >= ROUNDS_BEFORE_REPEAT
            and now < self.deadline
        )

    def _is_certain_at(self, *, pushes_missed: bool) -> int:
        """Return when an order that cannot be found was not taken."""
        is_lag_long = pushes_missed or self.is_recovered
        return self.deadline + (LONGEST_LOOK_UP_LAG_MS if is_lag_long else LOOK_UP_LAG_MS)

    def _look_up_by(self, when: int) -> None:
        if self.asked_at is None:
            self.look_up_at = when if self.look_up_at is None else min(self.look_up_at, when)

    def _end(self, phase: Phase, now: int) -> None:
        if self.phase != phase:
            self.ended_at = now
        self.phase = phase
        self.look_up_at = None


def _pause(round_number: int) -> int:
    return LOOK_UP_PAUSES_MS[min(round_number, len(LOOK_UP_PAUSES_MS) - 1)]
