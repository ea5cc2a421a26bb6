"""Parameters of a connection: names, TLS."""

from __future__ import annotations

import os
import ssl
from typing import Any

import pytest

from blackbird.broker.parameters import BrokerParameters, connection_parameters


def parameters(**changed: Any) -> BrokerParameters:
    where = {
        "host": "broker.example",
        "port": 5671,
        "virtual_host": "v",
        "user": "u",
        "password": "p",
        "heartbeat": 7,
    }
    return connection_parameters(**{**where, **changed})


def test_connection_and_consumers_are_named_after_the_service() -> None:
    named = parameters(name="signal engine")
    assert named.client_properties == {"connection_name": "blackbird signal engine"}
    assert named.consumer_tag("signal") == f"signal-engine-{os.getpid()}-signal"
    assert parameters().client_properties == {"connection_name": "blackbird"}


def test_tls_verifies_the_certificate_and_the_host() -> None:
    assert parameters().ssl_options is None
    options = parameters(tls=True).ssl_options
    assert options is not None
    assert options.server_hostname == "broker.example"
    assert options.context.verify_mode is ssl.CERT_REQUIRED
    assert options.context.check_hostname


def test_a_file_that_holds_no_certificates_is_refused() -> None:
    with pytest.raises(OSError, match="No such file"):
        parameters(tls=True, ca_file="no.pem")
    with pytest.raises(ssl.SSLError):
        parameters(tls=True, ca_file=__file__)


def test_each_node_of_a_cluster_is_connected_to_under_its_own_name() -> None:
    nodes = parameters(more_hosts=[("b2.example", 5672)], tls=True, name="collector").of_each_host()
    assert [node.address for node in nodes] == ["broker.example:5671", "b2.example:5672"]
    assert [node.ssl_options and node.ssl_options.server_hostname for node in nodes] == [
        "broker.example",
        "b2.example",
    ]
    assert {node.name for node in nodes} == {"collector"}
