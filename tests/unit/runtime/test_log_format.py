"""How the lines of a log are written."""

from __future__ import annotations

import io
import json
import logging

import pytest

from blackbird.runtime.log_format import formatter


class Stream(io.StringIO):
    """A stream that is a terminal or is not."""

    def __init__(self, *, is_terminal: bool) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


def logged(stream: Stream, kind: str, *calls: tuple[int, str]) -> str:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter("json" if kind == "json" else "text", "signal engine", stream))
    logger = logging.Logger("blackbird.trading")  # noqa: LOG001 - one of the test's own
    logger.addHandler(handler)
    for level, text in calls:
        logger.log(level, text)
    return stream.getvalue()


def test_colours_are_for_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    event = (logging.WARNING, "careful")
    assert "\x1b[33m" in logged(Stream(is_terminal=True), "text", event)
    assert "\x1b" not in logged(Stream(is_terminal=False), "text", event)
    assert "\x1b" not in logged(Stream(is_terminal=True), "text", (logging.INFO, "as ever"))


@pytest.mark.parametrize(("value", "has_colours"), [("1", False), ("", True)])
def test_no_color_switches_them_off_unless_it_is_empty(
    monkeypatch: pytest.MonkeyPatch, value: str, *, has_colours: bool
) -> None:
    monkeypatch.setenv("NO_COLOR", value)
    written = logged(Stream(is_terminal=True), "text", (logging.ERROR, "bad"))
    assert ("\x1b" in written) is has_colours


def test_json_is_one_object_per_line_whatever_is_logged() -> None:
    text = 'two\nlines, "quotes" and \udcff'
    stream = Stream(is_terminal=True)
    first, second = logged(stream, "json", (logging.INFO, text), (logging.ERROR, "b")).splitlines()
    event = json.loads(first)
    assert {**event, "time": ""} == {
        "time": "",
        "level": "INFO",
        "service": "signal engine",
        "logger": "blackbird.trading",
        "message": text,
    }
    assert event["time"][10] == "T"
    assert event["time"].endswith("Z")
    assert json.loads(second)["level"] == "ERROR"


def test_json_has_the_traceback_of_an_exception() -> None:
    stream = Stream(is_terminal=False)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter("json", "storage", stream))
    logger = logging.Logger("x")  # noqa: LOG001 - one of the test's own
    logger.addHandler(handler)
    try:
        raise ZeroDivisionError("by zero")
    except ZeroDivisionError:
        logger.exception("failed")
    (line,) = stream.getvalue().splitlines()
    assert "Traceback" in json.loads(line)["exception"]
    assert "by zero" in json.loads(line)["exception"]
