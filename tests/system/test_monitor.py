"""Page and metrics of a system that trades: the figures are SQL's, and the dashboard shows every metric."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.parse
from collections.abc import Iterator
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from local_exchange.process import ExchangeProcess
from tests.support.browser import Viewer, chromium
from tests.support.live_system import SERVICES, LiveSystem
from tests.support.monitor import fetch, start_monitor
from tests.support.workspace import HERE, Service, Workspace, free_ports, wait_for

DASHBOARD = HERE / "deploy" / "metrics" / "grafana" / "dashboards" / "blackbird.json"
needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None,
    reason="no prometheus: ./run_tests.sh brings it where it is run as root",
)


@pytest.fixture
def exchange() -> Iterator[ExchangeProcess]:
    with ExchangeProcess("--seed", "7", "--rate", "40") as started:
        yield started


@pytest.fixture
def system(place: Workspace, exchange: ExchangeProcess) -> LiveSystem:
    """The four services on a market that moves; they trade."""
    made = LiveSystem(place, exchange, TAKER_FEE_SPOT="0.000001", STATUS_INTERVAL_MS="500")
    made.start(*SERVICES)
    made.subscribe()
    wait_for(lambda: made.executions() > 2, "trades", 60)
    return made


@pytest.fixture
def monitor(place: Workspace, system: LiveSystem, tmp_path: Path) -> tuple[Service, int]:
    del system
    (port,) = free_ports(1)
    settings = {"TAKER_FEE_SPOT": "0.000001", "PGDATA_PATH": str(tmp_path)}
    return start_monitor(place, port, **settings), port


def number(shown: str) -> Decimal:
    """Return a figure as it stands on the page as a number."""
    return Decimal(shown.replace("−", "-").replace(",", "").replace("+", ""))


def test_with_the_market_paused_every_figure_is_sqls(
    system: LiveSystem, monitor: tuple[Service, int]
) -> None:
    with chromium() as browser:
        viewer = Viewer(browser, f"http://127.0.0.1:{monitor[1]}/")
        system.exchange.post("/pause")
        wait_for(lambda: is_at_rest(system, viewer), "all queues are empty and all is stored")
        query = system.place.query
        ((total, closed, turnover),) = query(
            "SELECT round(sum(cash), 2), round(sum(closed_pnl), 2),"
            ' (SELECT round(sum(price * size)) FROM bybit."order") FROM bybit.pnl'
        )
        assert number(viewer.figure("closed")) == closed
        assert number(viewer.figure("turnover")) == turnover
        fees = query(
            "SELECT round(sum(price * size * 0.000001), 2) FROM bybit.\"order\" WHERE channel = 'spot'"
        )
        assert number(viewer.figure("fees")) == -fees[0][0]
        net = Decimal(0)
        for channel, symbol, size, exposure in query(
            "SELECT channel, symbol_name, size, round(exposure, 2) FROM bybit.position"
        ):
            assert number(viewer.figure(f"position {channel} {symbol}")) == size
            assert number(viewer.figure(f"exposure {channel} {symbol}")) == exposure
            net += size
        assert number(viewer.figure("net")) == net == 0
        ((left, credit),) = query(
            "SELECT coalesce(sum(left_quantity), 0), round(coalesce(sum(entry_credit), 0), 2)"
            " FROM bybit.open_spread"
        )
        if left:
            assert number(viewer.figure("open quantity")) == left
        # What was received for the open ones is in the cash, and not in what is closed.
        assert abs(total - credit - closed) <= Decimal("0.01")
        assert viewer.messages == []


def is_at_rest(system: LiveSystem, viewer: Viewer) -> bool:
    """Return whether nothing waits in a queue, and the page knows all executions that are stored."""
    ((stored,),) = system.place.query('SELECT count(DISTINCT execution_id) FROM bybit."order"')
    shown = re.search(r"(\d+) opens (\d+) closes", viewer.text("#pnl-now").replace(",", ""))
    waiting = sum(system.place.waiting(queue) for queue in ("storage", "signal", "orders"))
    return shown is not None and int(shown[1]) + int(shown[2]) == stored and not waiting


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return loaded


def expressions() -> list[str]:
    return [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", ())]


def shown_metrics() -> set[str]:
    """Return the metrics that the dashboard names, histograms without their suffix."""
    names = re.findall(r"\b(?:blackbird|process)_[a-z_]+\b", " ".join(expressions()))
    return {name.removesuffix("_bucket") for name in names}


@needs_prometheus
def test_every_expression_of_the_dashboard_has_an_answer_and_every_metric_is_in_it(
    system: LiveSystem, monitor: tuple[Service, int], tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    text = fetch(monitor[1], "/metrics")
    check = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (check.returncode, check.stdout + check.stderr) == (0, "")
    wait_for(
        lambda: system.place.query("SELECT 1 FROM bybit.\"order\" WHERE action = 'Close Spread' LIMIT 1"),
        "closes",
        60,
    )

    served = (HERE / "deploy/metrics/prometheus.yml").read_text()
    served = served.replace("@MONITOR_PORT@", str(monitor[1])).replace(
        "scrape_interval: 5s", "scrape_interval: 1s"
    )
    (tmp_path / "prometheus.yml").write_text(served)
    prometheus = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={tmp_path / 'prometheus.yml'}",
            f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=error",
        ],
        cwd=tmp_path,
    )
    try:
        for expression in expressions():
            query = "/api/v1/query?" + urllib.parse.urlencode(
                {"query": expression.replace("$__rate_interval", "10s")}
            )
            wait_for(partial(answered, port, query), f"an answer to {expression}", 60)
    finally:
        prometheus.terminate()
        prometheus.wait(20)
    # A scrape of a system that trades has all metrics that there are.
    there = set(re.findall(r"^# TYPE (\S+)", fetch(monitor[1], "/metrics"), re.MULTILINE))
    assert {name.removesuffix("_total") for name in shown_metrics()} == {
        name.removesuffix("_total") for name in there
    }


def answered(port: int, query: str) -> bool:
    try:
        answer = json.loads(fetch(port, query))
    except OSError:
        return False
    values = [each["value"][1] for each in answer["data"]["result"]]
    return bool(values) and "NaN" not in values


def test_the_dashboard_uses_the_datasource_that_is_provisioned() -> None:
    provisioned = (HERE / "deploy/metrics/grafana/provisioning/datasources/prometheus.yaml").read_text()
    uid = re.search(r"uid: (\S+)", provisioned)
    assert uid is not None
    for panel in dashboard()["panels"]:
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == uid[1]
            assert all(target["datasource"]["uid"] == uid[1] for target in panel["targets"])


@needs_prometheus
def test_the_configuration_of_prometheus_is_valid(tmp_path: Path) -> None:
    text = (HERE / "deploy/metrics/prometheus.yml").read_text()
    (tmp_path / "prometheus.yml").write_text(re.sub("@[A-Z_]+@", "8001", text))
    subprocess.run(
        ["promtool", "check", "config", "prometheus.yml"], cwd=tmp_path, check=True, capture_output=True
    )


def test_the_system_trades_on_while_the_monitor_is_killed_and_started(
    system: LiveSystem, monitor: tuple[Service, int], place: Workspace
) -> None:
    monitor[0].kill()
    system.wait_until_it_works()
    start_monitor(place, monitor[1])
    system.wait_until_it_works()
    assert all(service.is_running for service in system.services.values())
