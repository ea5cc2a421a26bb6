"""The HTTP side of the collector under requests that schemathesis makes of its OpenAPI description.

HYPOTHESIS_PROFILE=long makes 10,000 requests of each operation.
"""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import positive_data_acceptance

from blackbird.collector.http_api import Feeds, Publishing, System, create_app
from local_exchange.process import ExchangeProcess
from tests.support.workspace import HERE, PYTHON, Service, Workspace, free_port, wait_for, workspace

# Each symbol that the exchange has to refuse takes a connection; Bybit's limit on those is not tested here.
WITHOUT_CONNECTION_LIMIT = """
from blackbird.bybit import connection_budget
connection_budget.ConnectionBudget.__init__.__defaults__ = (10**9, 1.0)
import market_data_collector_service
market_data_collector_service.main()
"""


class Fuzzed:
    """A collector on the real broker and the local exchange."""

    def __init__(self, place: Workspace, exchange: ExchangeProcess) -> None:
        self.port = free_port()
        environment = {**place.environment, "BYBIT_WS_URL": exchange.url, "COLLECTOR_PORT": str(self.port)}
        command = [PYTHON, "-c", WITHOUT_CONNECTION_LIMIT]
        self.service = Service(command, {**environment, "PYTHONPATH": str(HERE)}, place.folder / "fuzzed.log")
        wait_for(lambda: place.bindings("resync"), "the collector is at work")


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzed]:
    with (
        workspace(Path(tmp_path_factory.mktemp("fuzz"))) as place,
        ExchangeProcess("--rate", "10") as exchange,
    ):
        fuzzed = Fuzzed(place, exchange)
        try:
            yield fuzzed
            assert fuzzed.service.stop() == 0
            assert "Traceback" not in fuzzed.service.output
        finally:
            with contextlib.suppress(ProcessLookupError):
                fuzzed.service.kill()


# The collector's own description, made without a collector: tests are named before one runs.
operations = schemathesis.openapi.from_dict(
    create_app(cast("Feeds", None), cast("Publishing", None), cast("System", None)).openapi()
)


def test_description_is_what_the_collector_serves(collector: Fuzzed) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", collector.port, timeout=5)
    connection.request("GET", "/openapi.json")
    assert json.load(connection.getresponse()) == operations.raw_schema
    connection.close()


@operations.parametrize()
def test_every_answer_is_one_that_the_description_names(collector: Fuzzed, case: Any) -> None:
    # A well-formed request may be refused by the exchange, and a 503 is what /health has to say.
    excluded = [positive_data_acceptance]
    if case.path == "/health":
        excluded.append(not_a_server_error)
    case.call_and_validate(base_url=f"http://127.0.0.1:{collector.port}", excluded_checks=excluded)
