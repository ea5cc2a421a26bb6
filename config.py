"""Every setting of Blackbird, one line each, under the names that the owner gave.

What holds: the environment of the process, then `variables.env` beside this file, then the default. Settings
are read when the first of them is asked for: importing this module reads nothing and cannot fail. A value
that makes no sense raises InvalidSetting, which names the variable; `check_settings` ends a service with it.

A new setting is one line in `Settings`, or in `Servers` where setup.sh reads it too.
"""

from __future__ import annotations

import difflib
import functools
import io
import logging
import os
import re
import ssl
import sys
import typing
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, cast
from urllib.parse import urlsplit

import dotenv.parser
from annotated_types import Ge, Gt, Le, MinLen
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

HERE = Path(__file__).resolve().parent
VARIABLES_FILE = HERE / "variables.env"
LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
# Read elsewhere than here: by the demo, the benchmarks and the tests.
OTHER_NAMES = frozenset({"BLACKBIRD_SHARED", "DEMO_NAME"})

S = TypeVar("S", bound=BaseSettings)

logger = logging.getLogger(__name__)


class InvalidSetting(ValueError):
    """A setting that makes no sense; the text names the variable, what was expected and what was found."""


@dataclass(frozen=True)
class TableConfig:
    """A database table: its name, and its columns in the order of the schema."""

    name: str
    columns: list[str]


class _MaskedText(str):
    """A text that shows itself only where it is used, not in a dictionary, a traceback or an error."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'" if self else "''"


def _switch(value: object) -> object:
    words = {"true": True, "1": True, "false": False, "0": False}
    try:
        return words[value.lower()] if isinstance(value, str) else value
    except KeyError:
        raise ValueError("expected true, false, 1 or 0") from None


def _base_url(value: str) -> str:
    url = value.rstrip("/")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"ws", "wss", "http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if url and not usable:
        raise ValueError("expected scheme://host or scheme://host:port")
    return url


def _hosts(value: str) -> str:
    hosts = [host.strip() for host in value.split(",")]
    for host in hosts:
        try:
            name, port = _host_and_port(host)
            usable = bool(name) and port != 0
        except ValueError:
            usable = False
        if not usable or re.search(r"[\s/@?#]", host):
            raise ValueError("expected host or host:port, or several of them with commas between")
    return ",".join(hosts)


def hosts_and_ports(hosts: str, port: int) -> list[tuple[str, int]]:
    """Return each host of a setting with its port, which is `port` where it has none of its own."""
    pairs = map(_host_and_port, hosts.split(","))
    return [(host, port if own is None else own) for host, own in pairs]


def _host_and_port(text: str) -> tuple[str, int | None]:
    if text.count(":") > 1 and not text.startswith("["):
        return text, None  # an IPv6 address
    parts = urlsplit(f"//{text}")
    return parts.hostname or "", parts.port


def _ca_file(value: str) -> str:
    path = str(HERE / value) if value else ""
    try:
        if path:
            ssl.create_default_context(cafile=path)
    except OSError as error:
        raise ValueError(f"expected a file of certificates (PEM; {error.strerror or error})") from None
    return path


Text = Annotated[str, Field(min_length=1)]
Secret = Annotated[str, AfterValidator(_MaskedText)]
Switch = Annotated[bool, BeforeValidator(_switch)]
Port = Annotated[int, Field(ge=1, le=65535)]
BaseUrl = Annotated[str, AfterValidator(_base_url)]
Hosts = Annotated[str, Field(min_length=1), AfterValidator(_hosts)]
CaFile = Annotated[str, AfterValidator(_ca_file)]
PathFromHere = Annotated[Path, AfterValidator(lambda path: HERE / path)]
PathFromHereOrNone = Annotated[str, AfterValidator(lambda path: str(HERE / path) if path else "")]


def read_variables(path: Path) -> dict[str, str]:
    """Return the variables of a NAME=value file; no file is no variables.

    Raises InvalidSetting, without the value, which may be a secret, for a line that is not NAME=value and for
    one that `docker compose --env-file` would understand in another way.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSetting(f"{path.name}: expected a readable UTF-8 file, was {error}") from None
    variables: dict[str, str] = {}
    for binding in dotenv.parser.parse_stream(io.StringIO(text)):
        where = f"{path.name} line {_line_of(binding)}"
        if binding.error or (binding.key is not None and binding.value is None):
            raise InvalidSetting(f"{where}: expected NAME=value")
        if binding.key is not None and binding.value is not None:
            if not _means_the_same_to_compose(binding):
                raise InvalidSetting(f"{where}: {binding.key}: {SAME_TO_COMPOSE}")
            variables[binding.key] = binding.value
    return variables


SAME_TO_COMPOSE = (
    "expected a line that docker compose reads the same: a plain name, single quotes around a value with $,"
    " no doubled backslash in single quotes, a blank and not a tab before #, no comment in place of a value"
)


def _means_the_same_to_compose(binding: dotenv.parser.Binding) -> bool:
    """Return whether the line has none of the forms that the two readers understand in different ways."""
    name, _, written = binding.original.string.strip().partition("=")
    written = written.strip()
    if not name.removeprefix("export").strip().isidentifier():
        return False
    if written.startswith("'"):
        return "\\\\" not in written
    return "$" not in (binding.value or "") and (
        written.startswith('"') or not ("\t#" in written or (written and not binding.value))
    )


def _line_of(binding: dotenv.parser.Binding) -> int:
    text = binding.original.string
    return binding.original.line + text[: len(text) - len(text.lstrip())].count("\n")


class _Variables(BaseSettings):
    """How settings are read: names as they are written, from the environment and from the file."""

    model_config = SettingsConfigDict(
        case_sensitive=True, extra="ignore", frozen=True, hide_input_in_errors=True
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read the environment, then the file."""
        del init_settings, dotenv_settings, file_secret_settings
        return env_settings, InitSettingsSource(settings_cls, dict(read_variables(VARIABLES_FILE)))


class Servers(_Variables):
    """Where the two servers are, and how setup.sh runs them."""

    # Database
    POSTGRES_HOST: Hosts = "localhost"
    POSTGRES_PORT: Port = 5433
    POSTGRES_USER: Text = "postgres"
    POSTGRES_PASSWORD: Annotated[Secret, Field(min_length=1)] = _MaskedText("guest")
    POSTGRES_DB: Text = "postgres"
    POSTGRES_TLS: Switch = False
    POSTGRES_CA_FILE: CaFile = ""

    # Broker
    RABBITMQ_HOST: Hosts = "localhost"
    RABBITMQ_PORT: Port = 5672
    RABBITMQ_DEFAULT_USER: Text = "guest"
    RABBITMQ_DEFAULT_PASS: Annotated[Secret, Field(min_length=1)] = _MaskedText("guest")
    RABBITMQ_VHOST: Text = "/"
    RABBITMQ_MANAGEMENT_PORT: Port = 15672

    # setup.sh
    INFRASTRUCTURE: Literal["auto", "docker", "native"] = "auto"
    PGDATA_PATH: Text = "./pgdata"
    RABBITMQ_DATA_PATH: Text = "./rabbitmq_data"
    RABBITMQ_HOSTNAME: Text = "my-rabbit"
    CONTAINER_NAME_DB: Text = "timescaledb"
    CONTAINER_NAME_RABBITMQ: Text = "rabbitMQ"
    POSTGRES_BIN_PATH: str = ""
    RABBITMQ_RELEASE: Literal["installed", "3.10", "4.0", "4.3"] = "installed"
    USE_FOREIGN_SERVERS: Switch = False

    # setup.sh metrics
    MONITOR_PORT: Port = 8001
    PROMETHEUS_PORT: Port = 9090
    PROMETHEUS_DATA_PATH: Text = "./prometheus_data"
    GRAFANA_PORT: Port = 3000
    RABBITMQ_METRICS_PORT: Port = 15692
    POSTGRES_METRICS_PORT: Port = 9187


_TABLES = {
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
            "fee",
            "trade_id",
            "asked_price",
            "asked_size",
            "published_at",
            "received_at",
            "decided_at",
        ],
    ),
}


class Settings(Servers):
    """The settings of the services."""

    TABLES: ClassVar[dict[str, TableConfig]] = _TABLES

    # Database
    DUMP_ORDERBOOK_TO_DB: Switch = True
    DUMP_ORDER_TO_DB: Switch = True
    RETENTION_DAYS: int = Field(default=0, ge=0, le=36_500)
    ARCHIVE_PATH: PathFromHereOrNone = ""

    # Broker
    RABBITMQ_HEARTBEAT: int = Field(default=10, ge=1, le=3600)
    RABBITMQ_TLS: Switch = False
    RABBITMQ_CA_FILE: CaFile = ""
    RABBITMQ_FAST_PATH: Switch = True
    SIGNAL_PARTITIONS: int = Field(default=0, ge=0, le=256)
    ALLOW_REMOTE_GUEST: Switch = False

    # Exchange
    BYBIT_ENVIRONMENT: Literal["demo", "testnet", "mainnet"] = "demo"
    BYBIT_WS_URL: BaseUrl = ""
    BYBIT_REST_URL: BaseUrl = ""
    ORDERBOOK_DEPTH: int = Field(default=50, ge=1, le=1000)
    WEBSOCKET_CLIENT_CA_BUNDLE: CaFile = ""
    STREAM_SILENCE_MS: int = Field(default=5000, ge=100, le=600_000)
    API_KEY: Secret = _MaskedText()
    API_SECRET: Secret = _MaskedText()

    # Collector
    COLLECTOR_HOST: Text = "127.0.0.1"
    COLLECTOR_PORT: Port = 8000
    COLLECTORS: int = Field(default=1, ge=1, le=256)
    COLLECTOR: int = Field(default=0, ge=0, le=255)
    RESTORE_SUBSCRIPTIONS: Switch = True
    PUBLISH_BUFFER: int = Field(default=20_000, ge=100, le=10_000_000)

    # Signal engine
    SIGNAL_ENGINES: int = Field(default=1, ge=1, le=256)
    SIGNAL_ENGINE: int = Field(default=0, ge=0, le=255)
    MAX_BOOK_AGE_MS: int = Field(default=10_000, ge=0, le=86_400_000)
    MAX_LAG_MS: int = Field(default=1000, ge=0, le=86_400_000)
    # As long as an order is valid (ORDER_TIMEOUT_MS): a price older than that is no basis for a new order.
    # A healthy stream stays within some hundred milliseconds of its smallest lag.
    MAX_BOOK_LAG_MS: int = Field(default=2000, ge=0, le=86_400_000)
    MAX_PRICE_RATIO: Decimal = Field(default=Decimal("1.5"), ge=1)
    ORDER_TIMEOUT_MS: int = Field(default=2000, ge=1, le=3_600_000)
    CONSECUTIVE_UPDATES: Switch = True
    CLOSE_RULE: Literal["seed", "signed"] = "seed"
    # Fractions of an order's value. No taker pays 2 %: a larger number was meant in per cent.
    TAKER_FEE_SPOT: Decimal = Field(default=Decimal(0), ge=0, le=Decimal("0.02"))
    TAKER_FEE_LINEAR: Decimal = Field(default=Decimal(0), ge=0, le=Decimal("0.02"))
    MIN_PROFIT_BPS: Decimal = Field(default=Decimal(0), ge=0, le=10_000)

    # Trading engine
    MAX_RISK_OPEN_POSITION: Decimal = Field(default=Decimal(1_000_000), gt=0)
    RISK_MODEL: Literal["cash", "position"] = "cash"
    UNIQUE_ORDER: Switch = True
    KNOWN_ORDERS: int = Field(default=100_000, ge=1000, le=100_000_000)
    REAL_ORDER_SENDING: Switch = False
    REAL_MONEY: Switch = False
    # Hundredths of a per cent of the price.
    PRICE_TOLERANCE_BPS: Decimal = Field(default=Decimal(5), ge=0, le=1000)
    UNWIND_TOLERANCE_BPS: Decimal = Field(default=Decimal(100), ge=10, le=1000)
    # What the exchange allows an account of the lowest level.
    LINEAR_ORDERS_PER_SECOND: int = Field(default=10, ge=1, le=1000)
    SPOT_ORDERS_PER_SECOND: int = Field(default=20, ge=1, le=1000)
    PAIR_COOLDOWN_MS: int = Field(default=1000, ge=0, le=3_600_000)
    JOURNAL_PATH: PathFromHere = Field(default=Path("journal"), validate_default=True)
    JOURNAL: Literal["file", "database"] = "file"
    LEASE_MS: int = Field(default=5000, ge=2000, le=60_000)

    # Monitor
    MONITOR_HOST: Text = "127.0.0.1"
    MONITOR_ALLOWED_HOSTS: Text = "localhost,127.0.0.1,::1"

    LOG_LEVEL: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    LOG_FORMAT: Literal["text", "json"] = "text"
    STATUS_INTERVAL_MS: int = Field(default=500, ge=0, le=60_000)
    SUMMARY_SECONDS: int = Field(default=10, ge=0, le=3600)
    ALIVE_FILE: str = ""

    @property
    def DB_CONFIG(self) -> dict[str, str]:  # noqa: N802 - the owner's name
        """Arguments of psycopg2.connect.

        Of several hosts libpq takes the first that may be written to
        (https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-MULTIPLE-HOSTS).
        """
        servers = hosts_and_ports(self.POSTGRES_HOST, self.POSTGRES_PORT)
        more = {"target_session_attrs": "read-write"} if len(servers) > 1 else {}
        if self.POSTGRES_TLS:
            more |= {"sslmode": "verify-full", "sslrootcert": self.POSTGRES_CA_FILE or "system"}
        return {
            "database": self.POSTGRES_DB,
            "host": ",".join(host for host, _ in servers),
            "user": self.POSTGRES_USER,
            "password": self.POSTGRES_PASSWORD,
            "port": ",".join(str(port) for _, port in servers),
            **more,
        }

    @property
    def BROKER_CONFIG(self) -> dict[str, Any]:  # noqa: N802 - named like DB_CONFIG
        """Arguments of blackbird.broker.session.connection_parameters."""
        (host, port), *more_hosts = hosts_and_ports(self.RABBITMQ_HOST, self.RABBITMQ_PORT)
        return {
            "host": host,
            "port": port,
            "more_hosts": more_hosts,
            "virtual_host": self.RABBITMQ_VHOST,
            "user": self.RABBITMQ_USER,
            "password": self.RABBITMQ_PASSWORD,
            "heartbeat": self.RABBITMQ_HEARTBEAT,
            "tls": self.RABBITMQ_TLS,
            "ca_file": self.RABBITMQ_CA_FILE,
            "fast_path": self.RABBITMQ_FAST_PATH,
            "partitions": self.SIGNAL_PARTITIONS,
        }

    @property
    def STATUS_CONFIG(self) -> dict[str, Any]:  # noqa: N802 - named like DB_CONFIG
        """Arguments of blackbird.broker.status_publisher.reporting."""
        return {"interval_ms": self.STATUS_INTERVAL_MS, "summary_seconds": self.SUMMARY_SECONDS}

    @property
    def ORDER_CONFIG(self) -> dict[str, Any]:  # noqa: N802 - named like DB_CONFIG
        """Arguments of blackbird.bybit.environment.OrderMode.of."""
        return {
            "real": self.REAL_ORDER_SENDING,
            "environment": self.BYBIT_ENVIRONMENT,
            "rest_url": self.BYBIT_REST_URL,
            "ws_url": self.BYBIT_WS_URL,
            "real_money": self.REAL_MONEY,
        }

    @property
    def RABBITMQ_USER(self) -> str:  # noqa: N802 - the owner's name
        """RABBITMQ_DEFAULT_USER."""
        return self.RABBITMQ_DEFAULT_USER

    @property
    def RABBITMQ_PASSWORD(self) -> str:  # noqa: N802 - the owner's name
        """RABBITMQ_DEFAULT_PASS."""
        return self.RABBITMQ_DEFAULT_PASS

    @model_validator(mode="after")
    def _keys_for_real_orders(self) -> Self:
        if self.REAL_ORDER_SENDING and not (self.API_KEY and self.API_SECRET):
            raise InvalidSetting("REAL_ORDER_SENDING: expected API_KEY and API_SECRET with it, were empty")
        return self

    @model_validator(mode="after")
    def _each_has_a_partition(self) -> Self:
        partitions = self.SIGNAL_PARTITIONS
        for name, one in (("SIGNAL_ENGINES", "SIGNAL_ENGINE"), ("COLLECTORS", "COLLECTOR")):
            count, number = getattr(self, name), getattr(self, one)
            if count > 1 and partitions < count:
                raise InvalidSetting(
                    f"{name}: expected at most SIGNAL_PARTITIONS ({partitions}), was {count}"
                )
            # The number of an engine says nothing where the feed is not divided.
            if number >= count and (partitions or name != "SIGNAL_ENGINES"):
                raise InvalidSetting(f"{one}: expected a number below {name} ({count}), was {number}")
        return self

    @model_validator(mode="after")
    def _real_orders_are_stored(self) -> Self:
        if self.JOURNAL == "database" and (self.REAL_ORDER_SENDING or not self.DUMP_ORDER_TO_DB):
            raise InvalidSetting(
                "JOURNAL: expected file with REAL_ORDER_SENDING or without DUMP_ORDER_TO_DB, was database"
            )
        if self.REAL_ORDER_SENDING and not self.DUMP_ORDER_TO_DB:
            raise InvalidSetting(
                "DUMP_ORDER_TO_DB: expected true with REAL_ORDER_SENDING, was false: a restart would forget"
                " what is open"
            )
        return self

    @model_validator(mode="after")
    def _guest_is_local(self) -> Self:
        for variable, hosts, password in (
            ("POSTGRES_HOST", self.POSTGRES_HOST, self.POSTGRES_PASSWORD),
            ("RABBITMQ_HOST", self.RABBITMQ_HOST, self.RABBITMQ_DEFAULT_PASS),
        ):
            remote = [host for host, _ in hosts_and_ports(hosts, 0) if host not in LOCAL_HOSTS]
            if password == "guest" and remote and not self.ALLOW_REMOTE_GUEST:  # noqa: S105 - it is refused here
                raise InvalidSetting(
                    f"{variable}: expected a password other than guest for {remote[0]!r}, "
                    "which is not local; set one, or ALLOW_REMOTE_GUEST=true"
                )
        return self


def setting_names() -> list[str]:
    """Return the names of all settings, in the order in which they are declared."""
    return list(Settings.model_fields)


def default_and_range(name: str) -> tuple[str, str]:
    """Return a setting's default as it would be written, and in words which values it takes."""
    field = Settings.model_fields[name]
    default = field.get_default()
    written = {True: "true", False: "false"}.get(default) if field.annotation is bool else str(default)
    return written or "", _expectation(field)


def _expectation(field: FieldInfo) -> str:
    """Return in words what a field takes."""
    limits = {type(each): each for each in field.metadata}
    least, most = limits.get(Ge), limits.get(Le)
    if typing.get_origin(field.annotation) is Literal:
        return f"one of {', '.join(typing.get_args(field.annotation))}"
    if field.annotation is bool:
        return "true, false, 1 or 0"
    if MinLen in limits:
        return "a value"
    if field.annotation in {str, Path}:
        return "any text"
    kind = "a whole number" if field.annotation is int else "a number"
    if isinstance(least, Ge) and isinstance(most, Le):
        return f"{kind} from {least.ge} to {most.le}"
    if isinstance(least, Ge):
        return f"{kind} of at least {least.ge}"
    return f"{kind} above zero" if Gt in limits else kind


def _invalid(error: ValidationError, kind: type[BaseSettings]) -> InvalidSetting:
    """Return what the first error is about, in one line."""
    first = error.errors(include_url=False)[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, InvalidSetting):
        return cause
    name = str(first["loc"][0])
    field = kind.model_fields[name]
    expected = str(cause) if cause else f"expected {_expectation(field)}"
    found = "" if isinstance(field.default, _MaskedText) else f", was {first['input']!r}"
    return InvalidSetting(f"{name}: {expected}{found}")


@functools.cache
def read_settings() -> Settings:
    """Read all settings, once a process; raises InvalidSetting."""
    return _read(Settings)


def read_servers() -> Servers:
    """Read what setup.sh needs; raises InvalidSetting."""
    return _read(Servers)


def _read(kind: type[S]) -> S:
    try:
        return kind()
    except ValidationError as error:
        raise _invalid(error, kind) from None


class _SettingsAtFirstUse:
    """Stand-in for the settings until one is asked for: an import must neither fail nor end a process."""

    def __getattr__(self, name: str) -> Any:
        # Tools that inspect a module ask every object in it for such names.
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(read_settings(), name)


Config = cast("Settings", _SettingsAtFirstUse())


def check_settings() -> None:
    """End a service with one line that names the variable where a setting makes no sense."""
    try:
        read_settings()
    except InvalidSetting as error:
        print(f"setting {error}", file=sys.stderr)
        # EX_CONFIG of sysexits.h: the same settings would end it the same way, so a restart is of no use.
        raise SystemExit(78) from None


def settings_in_force() -> str:
    """Return all settings as one line of NAME=value, secrets masked."""
    settings = read_settings()
    return " ".join(f"{name}={_shown(getattr(settings, name))}" for name in setting_names())


def changed_settings() -> str:
    """Return the settings that differ from their defaults as one line of NAME=value, secrets masked."""
    settings = read_settings()
    values = ((name, getattr(settings, name)) for name in sorted(settings.model_fields_set))
    return " ".join(
        f"{name}={_shown(value)}"
        for name, value in values
        if value != Settings.model_fields[name].get_default()
    )


def _shown(value: object) -> str:
    return repr(value).strip("'") if isinstance(value, _MaskedText) else str(value)


def unknown_names() -> dict[str, str | None]:
    """Return the names that no setting has, each with the known name that was probably meant.

    Of `variables.env` every unknown name; of the environment, which holds other programs' names too, only
    those that are nearly a setting's.
    """
    known = {*setting_names(), *OTHER_NAMES}
    unknown: dict[str, str | None] = {}
    for name in read_variables(VARIABLES_FILE).keys() - known:
        unknown[name] = next(iter(difflib.get_close_matches(name, known, 1)), None)
    for name in os.environ.keys() - known:
        if meant := difflib.get_close_matches(name, known, 1, 0.92):
            unknown[name] = meant[0]
    return unknown


def log_settings() -> None:
    """Log what differs from the defaults, at DEBUG all settings, and a warning for each unknown name."""
    for name, meant in sorted(unknown_names().items()):
        logger.warning("setting %s is unknown and has no effect%s", name, f": {meant}?" if meant else "")
    logger.info("settings other than the defaults: %s", changed_settings() or "none")
    if logger.isEnabledFor(logging.DEBUG):
        logger.debug("all settings: %s", settings_in_force())
