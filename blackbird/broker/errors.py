"""How a session with the broker ends, each cause named for what it is.

SessionLost             the connection broke, or the broker closed it or the channel
+-- BrokerUnreachable   nothing listens there, or the host is unknown
+-- BrokerSilent        something listens there and does not answer
+-- NotABroker          what listens there does not speak AMQP, or not without TLS
+-- TlsFailed           TLS handshake: certificate, authority, host name, protocol
+-- AccessRefused       user, password or permissions
+-- VirtualHostMissing
+-- QueueInUse          another process consumes the queue and has it to itself
+-- DeclaredOtherwise   exchange or queue exists with another type or other arguments
+-- DeliveryTimeout     a delivery was not acknowledged within the broker's limit
"""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import Iterator

import pika.exceptions
from pika.adapters.utils import connection_workflow as workflow

from blackbird.broker.frames import NotAMQP


class SessionLost(Exception):
    """The session ended; what was not acknowledged or confirmed on it is delivered or has to be sent again.

    The text is the cause as it was found, with the broker's reply code first where there is one.
    """

    headline = "connection to the broker lost"

    def described(self, address: str) -> str:
        """Return headline and cause, as they are logged."""
        return f"{self.headline.format(address=address)} ({self})"


class BrokerUnreachable(SessionLost):
    """Nothing listens at host and port."""

    headline = "no broker at {address}"


class BrokerSilent(SessionLost):
    """Something listens at host and port but does not answer."""

    headline = "the broker at {address} does not answer"


class NotABroker(SessionLost):
    """What listens at host and port does not speak AMQP, or not without TLS."""

    headline = "what listens at {address} does not speak AMQP, or expects TLS"


class TlsFailed(SessionLost):
    """The TLS handshake failed."""

    headline = "TLS to the broker at {address} failed"


class AccessRefused(SessionLost):
    """The broker refuses the user's login or lacks a permission for it."""

    headline = "the broker at {address} refuses access"


class VirtualHostMissing(SessionLost):
    """The broker has no such virtual host, or it is down."""

    headline = "the broker at {address} does not serve the virtual host"


class QueueInUse(SessionLost):
    """Another process consumes the queue and has it to itself."""

    headline = "another process has the queue to itself"


class DeclaredOtherwise(SessionLost):
    """The exchange or queue exists with another type or other arguments than ours."""

    headline = "exchange or queue is declared otherwise"


class DeliveryTimeout(SessionLost):
    """A delivery was not acknowledged within the broker's limit (`consumer_timeout`)."""

    headline = "the broker closed the channel: a delivery was not acknowledged in time"


# Replies of the broker by their text: one code stands for several causes.
_BY_REPLY: tuple[tuple[re.Pattern[str], type[SessionLost]], ...] = (
    (re.compile("in exclusive use|locked queue"), QueueInUse),
    (re.compile("inequivalent arg"), DeclaredOtherwise),
    (re.compile("delivery acknowledgement on channel"), DeliveryTimeout),
    (re.compile("vhost .* (not found|is down)"), VirtualHostMissing),
    (re.compile("refused"), AccessRefused),
)
# pika hands some replies on as the text of another error.
_QUOTED_REPLY = re.compile(r"""\((\d{3})\) ['"](.*)['"]""")
_BY_ERROR: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], type[SessionLost]], ...] = (
    (ssl.SSLError, TlsFailed),
    (
        (workflow.AMQPConnectorStackTimeout, TimeoutError, pika.exceptions.ConnectionOpenAborted),
        BrokerSilent,
    ),
    ((workflow.AMQPConnectorSocketConnectError, socket.gaierror), BrokerUnreachable),
    (workflow.AMQPConnectorTransportSetupError, TlsFailed),
    ((pika.exceptions.IncompatibleProtocolError, NotAMQP), NotABroker),
)


def session_loss(error: BaseException) -> SessionLost:
    """Return the cause of a session's end from the error that pika gives for its connection or channel."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, pika.exceptions.ConnectionClosed | pika.exceptions.ChannelClosed):
            return _reply(str(cause.reply_code), cause.reply_text)
        if (quoted := _QUOTED_REPLY.search(str(cause))) is not None:
            return _reply(*quoted.groups())
    for kinds, loss in _BY_ERROR:
        if any(isinstance(cause, kinds) for cause in causes):
            return loss("timed out" if loss is BrokerSilent else _text(causes[-1]))
    return SessionLost(_text(causes[-1]))


def _reply(code: str, text: str) -> SessionLost:
    kind = next((kind for pattern, kind in _BY_REPLY if pattern.search(text)), SessionLost)
    return kind(f"{code} {text}")


def _text(error: BaseException) -> str:
    if isinstance(error, ConnectionError) and error.errno is not None:
        return os.strerror(error.errno)  # asyncio has put the address in its place
    return str(error) or type(error).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Return the error and those that pika has wrapped in it, outermost first."""
    yield error
    for inner in (*getattr(error, "exceptions", ()), getattr(error, "exception", None), *error.args):
        if isinstance(inner, BaseException):
            yield from _causes(inner)
