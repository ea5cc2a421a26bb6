"""The edge round handlers: what becomes of the message, the log and the session when one fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
from pika.channel import Channel
from pika.spec import Basic, BasicProperties

from blackbird.broker.errors import SessionLost
from blackbird.broker.handler_edge import guarded, guarded_confirm, settled_first
from blackbird.runtime.failure_log import FailureLog

CHANNEL = cast("Channel", None)
PROPERTIES = BasicProperties()


class Scene:
    """Handles one delivery of tag 7; `events` are what the edge does about it."""

    def __init__(self, error: Exception | None = None) -> None:
        self.events: list[Any] = []
        self._error = error

    def handle(self, *_: object) -> None:
        if self._error is not None:
            raise self._error
        self.events.append("handled")

    def dead_letter(self, reason: str, properties: BasicProperties, body: bytes) -> None:
        assert properties is PROPERTIES
        self.events.append((reason, body))

    def settle(self, tag: int) -> None:
        self.events.append(tag)


def deliver(handler: Callable[..., None]) -> None:
    handler(CHANNEL, Basic.Deliver("tag", 7, False, "", "queue"), PROPERTIES, b"body")


def test_a_handler_that_does_its_work_is_left_alone() -> None:
    scene = Scene()
    deliver(guarded(scene.handle, "queue", scene.dead_letter, scene.settle, FailureLog()))
    assert scene.events == ["handled"]


def test_a_failure_is_logged_once_with_its_traceback_and_the_message_put_aside_then_settled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    error = KeyError("pair")
    scene = Scene(error)
    deliver(guarded(scene.handle, "queue", scene.dead_letter, scene.settle, FailureLog()))
    assert scene.events == [("handler failed: KeyError('pair')", b"body"), 7]
    assert [record.exc_info[1] for record in caplog.records if record.exc_info] == [error]
    assert "queue" in caplog.text


def test_without_dead_letters_the_message_is_dropped() -> None:
    scene = Scene(ValueError())
    deliver(guarded(scene.handle, "queue", None, scene.settle, FailureLog()))
    assert scene.events == [7]


def test_a_session_that_ended_under_the_handler_is_not_the_messages_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scene = Scene(SessionLost("gone"))
    deliver(guarded(scene.handle, "queue", scene.dead_letter, scene.settle, FailureLog()))
    assert scene.events == []
    assert caplog.records == []


def test_a_message_that_could_not_be_put_aside_is_not_settled() -> None:
    def lost(*_: object) -> None:
        raise SessionLost("gone")

    scene = Scene(ValueError())
    deliver(guarded(scene.handle, "queue", lost, scene.settle, FailureLog()))
    assert scene.events == []


def test_a_delivery_without_acknowledgement_is_settled_before_it_is_handled() -> None:
    scene = Scene()
    deliver(settled_first(scene.handle, scene.settle))
    assert scene.events == [7, "handled"]


def test_a_failing_handler_of_confirms_ends_the_session(caplog: pytest.LogCaptureFixture) -> None:
    ended: list[SessionLost] = []
    confirm = guarded_confirm(Scene(KeyError("tag")).handle, ended.append)
    confirm("frame")
    assert [str(error) for error in ended] == ["handler of publisher confirms failed: KeyError('tag')"]
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [KeyError]
