"""The edge between the broker and the handlers of its messages: no exception of a handler passes it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any

from pika.channel import Channel
from pika.spec import Basic, BasicProperties

from blackbird.broker.errors import SessionLost
from blackbird.broker.stream import OnMessage
from blackbird.runtime.failure_log import FailureLog

logger = logging.getLogger(__name__)

# Puts a message aside: reason, properties, body.
DeadLetter = Callable[[str, BasicProperties, bytes], None]
# Takes a delivery tag.
OnTag = Callable[[int], None]


def guarded(
    on_message: OnMessage, label: str, dead_letter: DeadLetter | None, settle: OnTag, failures: FailureLog
) -> OnMessage:
    """Return `on_message` with an edge round it.

    An exception goes to `failures`; the message goes to `dead_letter` where there is one, else it is dropped,
    and `settle` is called with its delivery tag. After SessionLost nothing of this is done: what was not
    acknowledged is redelivered.
    """

    def handle(channel: Channel, deliver: Basic.Deliver, properties: BasicProperties, body: bytes) -> None:
        try:
            on_message(channel, deliver, properties, body)
        except SessionLost:
            pass
        except Exception as error:  # noqa: BLE001 - the edge: the message is put aside, the others go on
            failures.log(f"handler of messages from {label}", error)
            with contextlib.suppress(SessionLost):
                if dead_letter is not None:
                    dead_letter(f"handler failed: {error!r}", properties, body)
                settle(deliver.delivery_tag or 0)

    return handle


def guarded_confirm(
    on_confirm: Callable[[Any], None], end_session: Callable[[SessionLost], None]
) -> Callable[[Any], None]:
    """Return `on_confirm` with an edge round it: an exception is logged with traceback, the session ends."""

    def handle(frame: Any) -> None:
        try:
            on_confirm(frame)
        except Exception as error:
            logger.exception("handler of publisher confirms failed: unconfirmed messages are published again")
            end_session(SessionLost(f"handler of publisher confirms failed: {error!r}"))

    return handle


def settled_first(on_message: OnMessage, settle: OnTag) -> OnMessage:
    """Return `on_message` with `settle` called before it: for consumers that do not acknowledge."""

    def handle(channel: Channel, deliver: Basic.Deliver, properties: BasicProperties, body: bytes) -> None:
        settle(deliver.delivery_tag or 0)
        on_message(channel, deliver, properties, body)

    return handle
