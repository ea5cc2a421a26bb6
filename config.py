"""Every setting of Blackbird, read once at import.

What holds: the environment of the process, then `variables.env` beside this file, then the default. A value
that makes no sense ends the process with one line that names the variable.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, ClassVar

HERE = Path(__file__).resolve().parent
LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


class InvalidSetting(ValueError):
    """A setting that makes no sense; the text names the variable, what was expected and what was found."""


@dataclass(frozen=True)
class TableConfig:
    """A database table: its name, and its columns in the order of the schema."""

    name: str
    columns: list[str]


def read_variables(path: Path) -> dict[str, str]:
    """Return the KEY=VALUE lines of a variables file; no file is no variables."""
    variables = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        name, separator, value = line.strip().removeprefix("export ").partition("=")
        if separator and not name.startswith("#"):
            variables[name.strip()] = value.strip().strip("\"'")
    return variables


class Settings:
    """Typed access to variables; every error names the variable."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables

    def text(self, name: str, default: str) -> str:
        """Return the variable as it is written."""
        return self._variables.get(name, default)

    def choice(self, name: str, default: str, choices: tuple[str, ...]) -> str:
        """Return the variable, one of `choices`."""
        value = self.text(name, default)
        if value not in choices:
            raise InvalidSetting(f"{name}: expected one of {', '.join(choices)}, was {value!r}")
        return value

    def integer(self, name: str, default: int, least: int, most: int) -> int:
        """Return the variable as a whole number from `least` to `most`."""
        value = self.text(name, str(default))
        try:
            number = int(value)
        except ValueError:
            number = least - 1
        if not least <= number <= most:
            raise InvalidSetting(f"{name}: expected a whole number from {least} to {most}, was {value!r}")
        return number

    def amount(self, name: str, default: str) -> Decimal:
        """Return the variable as an exact amount above zero."""
        value = self.text(name, default)
        try:
            number = Decimal(value)
        except InvalidOperation:
            number = Decimal("NaN")
        if not number.is_finite() or number <= 0:
            raise InvalidSetting(f"{name}: expected a number above zero, was {value!r}")
        return number

    def switch(self, name: str, default: bool) -> bool:
        """Return the variable as on or off."""
        value = self.text(name, str(default)).lower()
        if value not in {"true", "false", "1", "0"}:
            raise InvalidSetting(f"{name}: expected true, false, 1 or 0, was {value!r}")
        return value in {"true", "1"}


def _read() -> Settings:
    return Settings({**read_variables(HERE / "variables.env"), **os.environ})


class Config:
    """The settings, under the names that the owner gave; the README's table says what each means."""

    _read = _read()
    try:
        # Database
        DB_CONFIG = {
            "database": _read.text("POSTGRES_DB", "postgres"),
            "host": _read.text("POSTGRES_HOST", "localhost"),
            "user": _read.text("POSTGRES_USER", "postgres"),
            "password": _read.text("POSTGRES_PASSWORD", "guest"),
            "port": str(_read.integer("POSTGRES_PORT", 5433, 1, 65535)),
        }
        TABLES = {
            "orderbook": TableConfig(
                name="bybit.orderbook",
                columns=[
                    "topic",
                    "type",
                    "ts_message",
                    "channel",
                    "symbol_name",
                    "update_id",
                    "sequence_id",
                    "side",
                    "price",
                    "size",
                    "ts_orderbook",
                    "matching_key",
                ],
            ),
            "order": TableConfig(
                name='bybit."order"',
                columns=[
                    "channel",
                    "symbol_name",
                    "price",
                    "size",
                    "type",
                    "flux",
                    "ts_orderbook",
                    "order_id",
                    "action",
                    "spread_id",
                    "placed_at",
                    "execution_id",
                    "request_key",
                ],
            ),
        }

        # Broker
        RABBITMQ_HOST = _read.text("RABBITMQ_HOST", "localhost")
        RABBITMQ_PORT = _read.integer("RABBITMQ_PORT", 5672, 1, 65535)
        RABBITMQ_USER = _read.text("RABBITMQ_DEFAULT_USER", "guest")
        RABBITMQ_PASSWORD = _read.text("RABBITMQ_DEFAULT_PASS", "guest")
        RABBITMQ_VHOST = _read.text("RABBITMQ_VHOST", "/")
        RABBITMQ_HEARTBEAT = _read.integer("RABBITMQ_HEARTBEAT", 10, 1, 3600)
        BROKER_CONFIG: ClassVar[dict[str, Any]] = {
            "host": RABBITMQ_HOST,
            "port": RABBITMQ_PORT,
            "virtual_host": RABBITMQ_VHOST,
            "user": RABBITMQ_USER,
            "password": RABBITMQ_PASSWORD,
            "heartbeat": RABBITMQ_HEARTBEAT,
        }
        ALLOW_REMOTE_GUEST = _read.switch("ALLOW_REMOTE_GUEST", False)

        # Exchange
        BYBIT_ENVIRONMENT = _read.choice("BYBIT_ENVIRONMENT", "demo", ("demo", "testnet", "mainnet"))
        BYBIT_WS_URL = _read.text("BYBIT_WS_URL", "").rstrip("/")
        BYBIT_REST_URL = _read.text("BYBIT_REST_URL", "").rstrip("/")
        ORDERBOOK_DEPTH = _read.integer("ORDERBOOK_DEPTH", 50, 1, 1000)
        STREAM_SILENCE_MS = _read.integer("STREAM_SILENCE_MS", 5000, 100, 600_000)
        API_KEY = _read.text("API_KEY", "")
        API_SECRET = _read.text("API_SECRET", "")

        # Collector
        COLLECTOR_HOST = _read.text("COLLECTOR_HOST", "127.0.0.1")
        COLLECTOR_PORT = _read.integer("COLLECTOR_PORT", 8000, 1, 65535)
        RESTORE_SUBSCRIPTIONS = _read.switch("RESTORE_SUBSCRIPTIONS", True)
        PUBLISH_BUFFER = _read.integer("PUBLISH_BUFFER", 20_000, 100, 10_000_000)

        # Signal
        MAX_BOOK_AGE_MS = _read.integer("MAX_BOOK_AGE_MS", 10_000, 0, 86_400_000)
        ORDER_TIMEOUT_MS = _read.integer("ORDER_TIMEOUT_MS", 2000, 1, 3_600_000)
        CONSECUTIVE_UPDATES = _read.switch("CONSECUTIVE_UPDATES", True)

        # Trading engine
        MAX_RISK_OPEN_POSITION = _read.amount("MAX_RISK_OPEN_POSITION", "1000000")
        UNIQUE_ORDER = _read.switch("UNIQUE_ORDER", True)
        REAL_ORDER_SENDING = _read.switch("REAL_ORDER_SENDING", False)
        JOURNAL_PATH = HERE / _read.text("JOURNAL_PATH", "journal")

        # Database switches
        DUMP_ORDERBOOK_TO_DB = _read.switch("DUMP_ORDERBOOK_TO_DB", True)
        DUMP_ORDER_TO_DB = _read.switch("DUMP_ORDER_TO_DB", True)

        LOG_LEVEL = _read.choice("LOG_LEVEL", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR"))

        if REAL_ORDER_SENDING and not (API_KEY and API_SECRET):
            raise InvalidSetting("REAL_ORDER_SENDING: expected API_KEY and API_SECRET with it, were empty")
        if not ALLOW_REMOTE_GUEST:
            for _variable, _host, _password in (
                ("POSTGRES_HOST", DB_CONFIG["host"], DB_CONFIG["password"]),
                ("RABBITMQ_HOST", RABBITMQ_HOST, RABBITMQ_PASSWORD),
            ):
                if _password == "guest" and _host not in LOCAL_HOSTS:  # noqa: S105 - it is refused here
                    raise InvalidSetting(
                        f"{_variable}: expected a password other than guest for {_host!r}, "
                        "which is not local; set one, or ALLOW_REMOTE_GUEST=true"
                    )
    except InvalidSetting as error:
        raise SystemExit(f"setting {error}") from None
