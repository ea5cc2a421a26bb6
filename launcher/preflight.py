"""Checks before anything is started or emptied, and the mode that orders are sent in; reads the settings."""

from __future__ import annotations

import socket

import config
from blackbird.bybit.environment import OrderMode
from config import Config


class CannotStartError(Exception):
    """Something that only the user can put right; the text says what."""


def order_mode() -> str:
    """Return in one line whether orders are simulated, and if not, which host they go to.

    Here and elsewhere an invalid setting ends the process with a line that names it, see
    config.check_settings.
    """
    config.check_settings()
    return str(OrderMode.of(**Config.ORDER_CONFIG))


def changed_settings() -> str:
    """Return the settings that are not at their defaults, in one line."""
    return f"settings other than the defaults: {config.changed_settings() or 'none'}"


def check_collector_port() -> None:
    """Raise CannotStartError where the collector's port is taken, perhaps by another Blackbird."""
    if not port_is_free(Config.COLLECTOR_HOST, Config.COLLECTOR_PORT):
        raise CannotStartError(
            f"port {Config.COLLECTOR_PORT} is taken: another Blackbird may be running;"
            " end it, or set COLLECTOR_PORT to a free one"
        )


def free_monitor_port() -> tuple[str, int]:
    """Return where the monitor can listen: on its port, or on the next one that is free."""
    host, port = Config.MONITOR_HOST, Config.MONITOR_PORT
    ports = (each for each in range(port, port + 100) if each != Config.COLLECTOR_PORT)
    free = next((each for each in ports if port_is_free(host, each)), port)
    return host, free


def port_is_free(host: str, port: int) -> bool:
    """Return whether a server could listen on the port."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind((host, port))
        except OSError:
            return False
    return True
