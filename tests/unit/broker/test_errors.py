"""Each cause of a session's end gets its own kind, from pika's errors and from the broker's replies."""

from __future__ import annotations

import socket
import ssl

import pika.exceptions
import pytest
from pika.adapters.utils import connection_workflow as workflow

from blackbird.broker.errors import (
    AccessRefused,
    BrokerSilent,
    BrokerUnreachable,
    DeclaredOtherwise,
    DeliveryTimeout,
    NotABroker,
    QueueInUse,
    SessionLost,
    TlsFailed,
    VirtualHostMissing,
    session_loss,
)


def failed(error: BaseException) -> BaseException:
    """Return pika's error for a connection attempt that failed with `error`."""
    return workflow.AMQPConnectionWorkflowFailed([error])


def not_connected(error: BaseException) -> BaseException:
    return pika.exceptions.AMQPConnectionError(failed(workflow.AMQPConnectorSocketConnectError(error)))


def tls(error: BaseException) -> BaseException:
    return failed(workflow.AMQPConnectorTransportSetupError(error))


IN_USE = "ACCESS_REFUSED - queue 'orders' in vhost '/' in exclusive use"
LOCKED = "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'x' in vhost '/'"
OTHER_TYPE = (
    "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'data_feeder' in vhost '/': "
    "received 'topic' but current is 'direct'"
)
TIMED_OUT = (
    "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. "
    "Timeout value used: 1800000 ms. This timeout value can be configured"
)
NO_PERMISSION = "ACCESS_REFUSED - access to queue 'x' in vhost '/' refused for user 'guest'"
NO_LOGIN = "ConnectionClosedByBroker: (403) 'ACCESS_REFUSED - Login was refused.'"
NO_VHOST = "ConnectionClosedByBroker: (530) 'NOT_ALLOWED - vhost x not found'"
NO_VHOST_ACCESS = (
    "ConnectionClosedByBroker: (530) \"NOT_ALLOWED - access to vhost '/' refused for user 'guest'\""
)
VHOST_DOWN = (
    "ConnectionClosedByBroker: (541) "
    "\"INTERNAL_ERROR - access to vhost '/' refused for user 'guest': vhost '/' is down\""
)


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (not_connected(ConnectionRefusedError(111, "address")), BrokerUnreachable, "Connection refused"),
        (not_connected(OSError(113, "No route to host")), BrokerUnreachable, "[Errno 113] No route to host"),
        (failed(socket.gaierror(-2, "Name not known")), BrokerUnreachable, "[Errno -2] Name not known"),
        (not_connected(TimeoutError("attempt timed out")), BrokerSilent, "timed out"),
        (tls(workflow.AMQPConnectorStackTimeout("long text")), BrokerSilent, "timed out"),
        (pika.exceptions.ConnectionOpenAborted("Timeout while ..."), BrokerSilent, "timed out"),
        (tls(ssl.SSLError(1, "wrong version number")), TlsFailed, "wrong version number"),
        (tls(ConnectionResetError()), TlsFailed, "ConnectionResetError"),
        (pika.exceptions.IncompatibleProtocolError("EOF"), NotABroker, "EOF"),
        (
            pika.exceptions.ProbableAuthenticationError(NO_LOGIN),
            AccessRefused,
            "403 ACCESS_REFUSED - Login was refused.",
        ),
        (pika.exceptions.ProbableAccessDeniedError(NO_VHOST), VirtualHostMissing, None),
        (pika.exceptions.ProbableAccessDeniedError(NO_VHOST_ACCESS), AccessRefused, None),
        (pika.exceptions.ProbableAccessDeniedError(VHOST_DOWN), VirtualHostMissing, None),
        (pika.exceptions.ChannelClosedByBroker(403, IN_USE), QueueInUse, f"403 {IN_USE}"),
        (pika.exceptions.ChannelClosedByBroker(405, LOCKED), QueueInUse, f"405 {LOCKED}"),
        (pika.exceptions.ChannelClosedByBroker(406, OTHER_TYPE), DeclaredOtherwise, f"406 {OTHER_TYPE}"),
        (pika.exceptions.ChannelClosedByBroker(406, TIMED_OUT), DeliveryTimeout, f"406 {TIMED_OUT}"),
        (pika.exceptions.ChannelClosedByBroker(403, NO_PERMISSION), AccessRefused, f"403 {NO_PERMISSION}"),
        (
            pika.exceptions.ChannelClosedByBroker(404, "NOT_FOUND - no exchange 'data_feeder' in vhost '/'"),
            SessionLost,
            "404 NOT_FOUND - no exchange 'data_feeder' in vhost '/'",
        ),
        (pika.exceptions.ConnectionClosedByBroker(541, "INTERNAL_ERROR"), SessionLost, "541 INTERNAL_ERROR"),
        (pika.exceptions.ConnectionClosedByBroker(320, "shutdown"), SessionLost, "320 shutdown"),
        (pika.exceptions.AMQPHeartbeatTimeout("No activity"), SessionLost, "No activity"),
        (pika.exceptions.StreamLostError("Stream connection lost"), SessionLost, "Stream connection lost"),
    ],
)
def test_causes_are_told_apart(error: BaseException, kind: type[SessionLost], text: str | None) -> None:
    loss = session_loss(error)
    assert type(loss) is kind
    assert text is None or str(loss) == text


def test_what_is_logged_names_the_address_where_that_matters() -> None:
    assert BrokerUnreachable("Connection refused").described("localhost:5672") == (
        "no broker at localhost:5672 (Connection refused)"
    )
    assert SessionLost("320 shutdown").described("h:1") == "connection to the broker lost (320 shutdown)"
