"""Where the broker is, and how a service connects to it."""

from __future__ import annotations

import copy
import os
import ssl
from collections.abc import Sequence

import pika

from blackbird.broker.feed_layout import FeedLayout

# Seconds: to reach the port, and to be connected with all that this needs.
CONNECT_SECONDS = 5
HANDSHAKE_SECONDS = 10


class BrokerParameters(pika.ConnectionParameters):
    """pika's parameters of a connection, and what a session needs beside."""

    # Whose connection it is, and whether messages are encoded and decoded without pika.
    name = "blackbird"
    fast_path = True
    # Further nodes of the broker's cluster: host and port.
    more_hosts: Sequence[tuple[str, int]] = ()
    layout = FeedLayout()

    def of_each_host(self) -> list[BrokerParameters]:
        """Return the parameters of a connection to each node of the broker's cluster, this one's first."""
        return [self, *(self._at(host, port) for host, port in self.more_hosts)]

    def _at(self, host: str, port: int) -> BrokerParameters:
        there = copy.copy(self)
        there.host, there.port = host, port
        if self.ssl_options is not None:
            there.ssl_options = pika.SSLOptions(self.ssl_options.context, host)
        return there

    @property
    def address(self) -> str:
        """Host and port."""
        return f"{self.host}:{self.port}"

    def consumer_tag(self, label: str) -> str:
        """Return a consumer tag that says in RabbitMQ's screens whose consumer it is."""
        return f"{self.name.replace(' ', '-')}-{os.getpid()}-{label}"


def connection_parameters(
    *,
    host: str,
    port: int,
    virtual_host: str,
    user: str,
    password: str,
    heartbeat: int,
    tls: bool = False,
    ca_file: str = "",
    fast_path: bool = True,
    name: str = "blackbird",
    more_hosts: Sequence[tuple[str, int]] = (),
    partitions: int = 0,
) -> BrokerParameters:
    """Return the parameters of a connection; `heartbeat` is in seconds.

    With `tls` the broker's certificate must be valid for `host` and signed by an authority of `ca_file` (PEM)
    or, where that is empty, of the system; raises OSError for a file that cannot be used. `name` is what
    RabbitMQ's screens call connection and consumers. `more_hosts` are other nodes of the same cluster, which
    are tried in turn. `partitions` see FeedLayout.
    """
    options = None
    if tls:
        options = pika.SSLOptions(ssl.create_default_context(cafile=ca_file or None), host)
    parameters = BrokerParameters(
        host=host,
        port=port,
        virtual_host=virtual_host,
        credentials=pika.PlainCredentials(user, password),
        heartbeat=heartbeat,
        socket_timeout=CONNECT_SECONDS,
        stack_timeout=HANDSHAKE_SECONDS,
        ssl_options=options,
        client_properties={"connection_name": f"blackbird {name}" if name != "blackbird" else name},
    )
    parameters.name = name
    parameters.fast_path = fast_path
    parameters.more_hosts = tuple(more_hosts)
    parameters.layout = FeedLayout(partitions)
    return parameters
