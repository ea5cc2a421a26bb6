"""How the lines of a log are written: as text, coloured on a terminal, or as JSON."""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
from typing import Literal, TextIO

LogFormat = Literal["text", "json"]

_RESET = "\x1b[0m"
_COLOURS = {
    logging.DEBUG: "\x1b[2m",
    logging.WARNING: "\x1b[33m",
    logging.ERROR: "\x1b[31m",
    logging.CRITICAL: "\x1b[1;31m",
}


def takes_colours(stream: TextIO) -> bool:
    """Return whether to write colours: to a terminal, unless NO_COLOR asks for none (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


class TextFormatter(logging.Formatter):
    """One event per line: time, level, message; coloured by level where asked for."""

    def __init__(self, *, colours: bool = False) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s")
        self._colours = _COLOURS if colours else {}

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of an event."""
        text = super().format(record)
        colour = self._colours.get(record.levelno)
        return text if colour is None else f"{colour}{text}{_RESET}"


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time (UTC), level, service, logger, message, and an exception's traceback."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """Return an event as JSON; line ends within it are escaped."""
        time = dt.datetime.fromtimestamp(record.created, dt.UTC)
        event = {
            "time": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return json.dumps(event)


def formatter(kind: LogFormat, service: str, stream: TextIO) -> logging.Formatter:
    """Return what writes the lines of a service to `stream`."""
    return JsonFormatter(service) if kind == "json" else TextFormatter(colours=takes_colours(stream))
