"""The monitor's page in a real browser, on statuses that the test publishes."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser

from tests.support import statuses
from tests.support.broker_proxy import BrokerProxy
from tests.support.browser import SCREENS, Scheme, Viewer, chromium
from tests.support.monitor import fetch, start_monitor
from tests.support.workspace import Service, Workspace, connect, free_port

SERVICES = {"collector", "signal", "engine", "storage"}


@pytest.fixture(scope="module")
def one_browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def browser(one_browser: Browser) -> Iterator[Browser]:
    yield one_browser
    # A page that stays open goes on drawing, until the last test of the module.
    for context in one_browser.contexts:
        context.close()


@pytest.fixture
def publishing(place: Workspace) -> Iterator[statuses.Publishing]:
    made = statuses.Publishing(place)
    yield made
    made.end()


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def monitor(place: Workspace, publishing: statuses.Publishing, port: int) -> Service:
    del publishing
    return start_monitor(place, port)


def open_page(
    browser: Browser, port: int, width: int = 1440, scheme: Scheme = "light", query: str = ""
) -> Viewer:
    viewer = Viewer(browser, f"http://127.0.0.1:{port}/{query}", width, scheme)
    viewer.wait("document.querySelector('[data-figure=total]') && !document.querySelector('.stale')")
    return viewer


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
@pytest.mark.usefixtures("monitor")
def test_the_page_fits_every_screen_is_silent_and_asks_nobody_else(
    browser: Browser, port: int, width: int, scheme: Scheme
) -> None:
    viewer = open_page(browser, port, width, scheme)
    viewer.wait("document.querySelectorAll('.u-over').length === 2")
    assert viewer.figure("closed") == "+537.38"
    assert viewer.text("#mode") == "SIMULATED"
    assert viewer.page.title() == "SIMULATED · Blackbird"
    # The chart has got its second point.
    viewer.wait("spread.data[0].length > 1")
    ground = viewer.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(244, 245, 246)", "dark": "rgb(14, 18, 23)"}[scheme]
    assert viewer.too_wide() == []
    cut = "[...document.querySelectorAll('.scroll')].filter(each => each.scrollWidth > each.clientWidth)"
    assert viewer.page.evaluate(f"{cut}.map(each => each.textContent)") == []
    assert viewer.messages == []
    assert viewer.hosts() == {"127.0.0.1"}


@pytest.mark.parametrize("silent", sorted(SERVICES))
@pytest.mark.usefixtures("monitor")
def test_what_a_service_feeds_is_greyed_with_its_age_when_it_stops(
    browser: Browser, port: int, publishing: statuses.Publishing, silent: str
) -> None:
    viewer = open_page(browser, port)
    publishing.silent.add(silent)
    viewer.wait("name => document.getElementById(`service-${name}`).matches('.stale')", silent)
    viewer.wait("document.querySelectorAll('section.stale, .row.stale').length")
    fed = {
        "collector": "card-spread",
        "signal": "card-orders",
        "engine": "card-hedged",
        "storage": "plumbing-foot",
    }
    assert fed[silent] in viewer.stale()
    assert re.fullmatch(r"\d+\.\d s old", viewer.text(f"#{fed[silent]} .age"))
    others = {f"service-{name}" for name in SERVICES - {silent}}
    assert not viewer.stale() & others
    publishing.silent.clear()
    viewer.wait("!document.querySelector('.stale')")


@pytest.mark.usefixtures("monitor")
def test_a_service_that_stops_is_named_where_one_looks_for_the_reason(
    browser: Browser, port: int, publishing: statuses.Publishing
) -> None:
    viewer = open_page(browser, port)
    publishing.silent.add("engine")
    viewer.wait("document.getElementById('troubles').textContent.includes('engine: not heard for')")


def test_a_monitor_that_starts_shows_the_spreads_that_were_stored_before(
    browser: Browser, place: Workspace, publishing: statuses.Publishing, port: int
) -> None:
    del publishing
    spot, perp = statuses.legs(0)
    newest = statuses.now_ms() // 1000 - 1
    for leg, bid, ask in ((spot, 126.2, 126.3), (perp, 100.1, 100.2)):
        place.query(
            "INSERT INTO bybit.quote (quoted_at, channel, symbol_name, state, bid, ask, received_at)"
            " SELECT 1000 * second, %s, %s, 'in sync', %s, %s, 1000 * second"
            " FROM generate_series(%s::bigint, %s::bigint) AS second RETURNING 1",
            *(leg.channel, leg.symbol, bid, ask, newest - 600, newest),
        )
    start_monitor(place, port)
    viewer = Viewer(browser, f"http://127.0.0.1:{port}/")
    viewer.wait("spread.data[0].length > 600")
    then = viewer.page.evaluate("at => spread.data[0].indexOf(at)", newest - 300)
    assert viewer.page.evaluate("at => [spread.data[1][at], spread.data[2][at]]", then) == [26.2, 26.0]


def test_a_broker_that_falls_silent_greys_all_that_comes_through_it(
    browser: Browser, place: Workspace, publishing: statuses.Publishing, port: int
) -> None:
    del publishing
    with BrokerProxy(place) as proxy:
        start_monitor(place, port, RABBITMQ_PORT=proxy.port, RABBITMQ_HOST="127.0.0.1")
        viewer = open_page(browser, port)
        proxy.silence()
        viewer.wait("document.getElementById('service-broker').matches('.stale')")
        viewer.wait("document.querySelectorAll('section.stale').length >= 7")
        assert {f"service-{name}" for name in SERVICES} <= viewer.stale()
        assert "service-database" not in viewer.stale()
        proxy.go_on()
        viewer.wait("!document.querySelector('.stale')")


@pytest.mark.usefixtures("monitor")
def test_a_database_that_does_not_answer_greys_what_it_feeds(
    browser: Browser, port: int, place: Workspace
) -> None:
    viewer = open_page(browser, port)
    with contextlib.closing(locked(place)):
        viewer.wait("document.getElementById('service-database').matches('.stale')")
        viewer.wait("document.getElementById('card-charts').matches('.stale')")
        assert not viewer.stale() & {f"service-{name}" for name in SERVICES}
    viewer.wait("!document.querySelector('.stale')")


def locked(place: Workspace) -> Any:
    """Return a connection that holds the order table for itself."""
    connection = connect(place.environment, place.name)
    connection.autocommit = False
    connection.cursor().execute('LOCK TABLE bybit."order" IN ACCESS EXCLUSIVE MODE')
    return connection


def test_a_monitor_that_stands_still_greys_the_whole_page(
    browser: Browser, port: int, monitor: Service
) -> None:
    viewer = open_page(browser, port)
    monitor.pause()
    viewer.wait("document.body.matches('.old')")
    assert "Nothing heard from the monitor" in viewer.text("#old")
    monitor.go_on()
    viewer.wait("!document.body.matches('.old') && !document.querySelector('.stale')")


def test_a_restarted_monitor_brings_the_page_back_without_a_reload(
    browser: Browser, place: Workspace, port: int, monitor: Service
) -> None:
    viewer = open_page(browser, port)
    viewer.page.evaluate("window.notReloaded = true")
    monitor.kill()
    viewer.wait("document.body.matches('.old')")
    start_monitor(place, port)
    viewer.wait("!document.body.matches('.old') && !document.querySelector('.stale')")
    assert viewer.page.evaluate("window.notReloaded")
    # The stream that broke off is all that the browser may complain about.
    assert all("net::ERR_" in message for message in viewer.messages)


@pytest.mark.usefixtures("monitor")
def test_a_hidden_tab_lets_its_connection_go_and_is_back_when_shown(browser: Browser, port: int) -> None:
    viewer = open_page(browser, port)
    hide = "hidden => { Object.defineProperty(document, 'hidden', {value: hidden, configurable: true});"
    hide += " document.dispatchEvent(new Event('visibilitychange')); }"
    viewer.page.evaluate(hide, True)
    assert viewer.page.evaluate("source.readyState") == 2
    viewer.wait("document.body.matches('.old')")
    viewer.page.evaluate(hide, False)
    viewer.wait("!document.body.matches('.old') && source.readyState === 1")


@pytest.mark.usefixtures("monitor")
def test_ten_tabs_of_one_window_are_open_at_once(browser: Browser, port: int) -> None:
    """A browser has six connections to a server: of ten tabs nine are hidden."""
    first = open_page(browser, port)
    for _ in range(9):
        tab = first.context.new_page()
        tab.add_init_script(
            "Object.defineProperty(document, 'hidden', {get: () => window.covered === true});"
        )
        tab.goto(f"http://127.0.0.1:{port}/")
        tab.wait_for_selector("[data-figure=total]", state="attached")
        tab.evaluate("window.covered = true; document.dispatchEvent(new Event('visibilitychange'))")
    first.wait("!document.querySelector('.stale')")


def test_stopping_with_pages_open_ends_in_order(browser: Browser, port: int, monitor: Service) -> None:
    open_page(browser, port)
    open_page(browser, port)
    assert monitor.stop(seconds=30) == 0
    assert "ended" in monitor.output
    assert "Traceback" not in monitor.output


def test_two_hundred_groups_can_be_searched_and_looked_into(
    browser: Browser, port: int, monitor: Service, publishing: statuses.Publishing
) -> None:
    del monitor
    publishing.groups = 200
    viewer = open_page(browser, port)
    viewer.wait("document.querySelectorAll('#why tr').length === 200")
    viewer.page.fill("#find", "c123")
    visible = "[...document.querySelectorAll('#why tr')].filter(row => !row.hidden)"
    viewer.wait(f"{visible}.length === 1")
    # New figures come meanwhile; the others stay away.
    viewer.wait("before => written > before + 1", viewer.page.evaluate("written"))
    assert viewer.page.evaluate(f"{visible}.length") == 1
    viewer.page.click("#why tr:not([hidden]) a")
    viewer.wait("document.getElementById('hedged-note').textContent === 'group g123'")
    assert viewer.text("#spread-note") == "C123USDT / C123PERP"
    assert viewer.too_wide() == []
    assert viewer.messages == []


def test_new_executions_become_marks_of_the_chart(
    browser: Browser, port: int, place: Workspace, monitor: Service
) -> None:
    del monitor
    viewer = open_page(browser, port)
    assert viewer.page.evaluate("marks") == []
    at = statuses.now_ms()
    values: list[Any] = []
    for number, action in enumerate(("Open Spread", "Open Spread", "Close Spread"), 1):
        buy, sell = ("linear", "BTCPERP", 61659.8), ("spot", "BTCUSDT", 61685.99)
        if action == "Close Spread":
            buy, sell = ("spot", "BTCUSDT", 61686), ("linear", "BTCPERP", 61659.7)
        for kind, (channel, symbol, price) in (("buy", buy), ("sell", sell)):
            values += [channel, symbol, price, kind, action, at, number]
    columns = "channel, symbol_name, price, type, action, placed_at, execution_id, size, flux, ts_orderbook"
    place.query(
        f'INSERT INTO bybit."order" ({columns})'  # noqa: S608 - written here
        f" VALUES {', '.join(6 * ['(%s, %s, %s, %s, %s, %s, %s, 1, 0, 0)'])}",
        *values,
    )
    viewer.wait("marks.length === 2")
    second = at // 1000
    found = {tuple(mark) for mark in viewer.page.evaluate("marks")}
    assert {(mark[0], round(mark[1], 2), *mark[2:]) for mark in found} == {
        (second, 26.19, True, 2),
        (second, 26.3, False, 1),
    }
    # The tables are emptied: that history is no more.
    place.query('TRUNCATE bybit."order"')
    viewer.wait("marks.length === 0")


def test_what_is_no_status_is_left_out(
    place: Workspace, port: int, monitor: Service, browser: Browser
) -> None:
    viewer = open_page(browser, port)
    channel = place.channel()
    channel.basic_publish("data_feeder", "status", b"nonsense")
    channel.basic_publish("data_feeder", "status", b'{"service": "cuckoo"}')
    viewer.wait("before => written > before + 1", viewer.page.evaluate("written"))
    assert viewer.figure("closed") == "+537.38"
    assert monitor.is_running


@pytest.mark.slow
def test_the_scripts_memory_stays_as_it_is(
    browser: Browser, port: int, monitor: Service, publishing: statuses.Publishing
) -> None:
    """Ten minutes here stand for days: the first three grow by themselves (compiled code)."""
    del monitor
    publishing.groups = 20
    viewer = open_page(browser, port)
    samples = []
    began = time.monotonic()
    while time.monotonic() < began + 600:
        viewer.page.wait_for_timeout(20_000)
        samples.append(viewer.heap())
    middle, last = min(samples[10:20]), min(samples[-10:])
    assert last < 1.05 * middle, samples


def test_the_monitor_waits_for_a_broker_that_is_not_there(place: Workspace, port: int) -> None:
    monitor = start_monitor(place, port, RABBITMQ_PORT=str(free_port()))
    assert 'blackbird_service_up{service="broker"} 0' in fetch(port, "/metrics")
    assert monitor.stop() == 0
