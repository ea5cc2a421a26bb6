"""The trading engine as a process that kills itself at the point of a real trade that CRASH_AT names."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import trading_engine_service
from blackbird.broker.session import Session
from blackbird.bybit.account import Account
from blackbird.bybit.leg_orders import LegOrders
from blackbird.engine.journal import Journal

# Points at which every trade is killed, and those of a trade with unequal legs.
POINTS = (
    "before the intent",
    "intent synced",
    "one leg sent",
    "replies read",
    "some fills",
    "not booked",
    "booked",
    "answered",
)
UNEQUAL_POINTS = ("unwinding not intended", "unwinding intended", "unwinding sent")


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(kind: type[Any], name: str, fits: Callable[..., bool] = lambda *_: True) -> None:
    """Die before a method is called with arguments that fit."""
    method = getattr(kind, name)

    def call(self: Any, *arguments: Any, **named: Any) -> Any:
        if fits(*arguments, **named):
            die()
        return method(self, *arguments, **named)

    setattr(kind, name, call)


def after(kind: type[Any], name: str, fits: Callable[..., bool] = lambda *_: True) -> None:
    """Die after a method was called with arguments that fit."""
    method = getattr(kind, name)

    def call(self: Any, *arguments: Any, **named: Any) -> Any:
        result = method(self, *arguments, **named)
        if fits(*arguments, **named):
            die()
        return result

    setattr(kind, name, call)


def is_unwinding(order: Any, *_: object) -> bool:
    return bool(order.link_id.rpartition("-")[2] not in {"b1", "s1"})


def has_unwinding(trade: Any) -> bool:
    return any(is_unwinding(sent.order) for sent in trade.orders)


def is_end(_records: object, ended: str | None = None) -> bool:
    return ended is not None


def die_after_sending(count: int, fits: Callable[..., bool] = lambda *_: True) -> None:
    """Die when so many orders that fit were answered; the others are not sent before."""
    send = LegOrders.send
    answered = 0
    first = asyncio.Lock()

    async def call(self: LegOrders, order: Any, expires_at: int | None) -> Any:
        nonlocal answered
        if not fits(order):
            return await send(self, order, expires_at)
        async with first:
            result = await send(self, order, expires_at)
            answered += 1
            if answered == count:
                die()
        return result

    LegOrders.send = call  # type: ignore[method-assign]  # what this script is for


def arrange(point: str) -> None:
    if point == "before the intent":
        before(Journal, "put_trade")
    elif point == "intent synced":
        before(LegOrders, "send")
    elif point == "one leg sent":
        die_after_sending(1)
    elif point == "replies read":
        die_after_sending(2)
    elif point == "some fills":
        deliver = Account.on_rows

        def on_rows(self: Account, topic: str, rows: list[dict[str, Any]], pushed_at: int) -> None:
            deliver(self, topic, rows, pushed_at)
            if topic == "execution" and any(isinstance(row.get("orderLinkId"), str) for row in rows):
                # What the trade makes of it is done in this turn of the loop.
                asyncio.get_running_loop().call_later(0.001, die)

        Account.on_rows = on_rows  # type: ignore[method-assign]
    elif point == "not booked":
        before(Journal, "append", is_end)
    elif point == "booked":
        after(Journal, "append", is_end)
    elif point == "answered":
        # The first acknowledgement after the outcome is in the journal is that of its order.
        append = Journal.append

        def note(self: Journal, *arguments: Any, **named: Any) -> None:
            append(self, *arguments, **named)
            if is_end(*arguments, **named):
                before(Session, "acknowledge")

        Journal.append = note  # type: ignore[method-assign]  # what this script is for
    elif point == "unwinding not intended":
        before(Journal, "put_trade", has_unwinding)
    elif point == "unwinding intended":
        before(LegOrders, "send", is_unwinding)
    elif point == "unwinding sent":
        die_after_sending(1, is_unwinding)
    else:
        raise SystemExit(f"expected one of {POINTS + UNEQUAL_POINTS}, was {point!r}")


if __name__ == "__main__":
    arrange(os.environ["CRASH_AT"])
    trading_engine_service.main()
