from __future__ import annotations

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from blackbird.monitor.board import Board
from blackbird.monitor.history import History
from blackbird.monitor.metrics import Metrics
from blackbird.monitor.queues import QueueWatch
from blackbird.monitor.sources import Sources
from tests.support import statuses
from tests.unit.monitor.test_page import FREE, no_session, sources

BUCKETS = (
    0.00025,
    0.0005,
    0.001,
    0.002,
    0.003,
    0.005,
    0.0075,
    0.01,
    0.02,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
)


def scrape(made: Sources) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = Metrics(lambda: made, statuses.now_ms).text().decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: dict[tuple[str, frozenset[tuple[str, str]]], float], name: str, **labels: str) -> float:
    return samples[f"blackbird_{name}", frozenset(labels.items())]


def test_the_figures_are_those_of_the_statuses() -> None:
    samples = scrape(sources())
    assert value(samples, "service_up", service="signal") == 1
    assert value(samples, "orders_total", action="Open Spread", answer="risk limit exceed") == 5
    assert value(samples, "position_base", channel="spot", symbol="BTCUSDT") == -1.5
    assert value(samples, "pnl_closed_quote", group="a") == 537.38
    assert value(samples, "pnl_open_quote", group="a") == 1.05
    assert value(samples, "queue_messages", queue="storage") == 3
    assert value(samples, "disk_free_bytes") == 71e9


def test_histograms_have_buckets_that_fit_and_are_cumulative() -> None:
    samples = scrape(sources())
    found = {
        float(dict(labels)["le"]): count
        for (name, labels), count in samples.items()
        if name == "blackbird_tick_age_seconds_bucket"
    }
    assert sorted(found) == [*BUCKETS, float("inf")]
    assert [found[bound] for bound in (0.001, 0.002, 0.003, 0.01, float("inf"))] == [0, 1, 2, 3, 3]
    assert value(samples, "tick_age_seconds_count") == 3


def test_a_service_that_is_silent_has_no_figures_but_is_down() -> None:
    given = statuses.all_statuses()
    given["engine"] = msgspec.structs.replace(given["engine"], published_ms=statuses.now_ms() - 60_000)
    samples = scrape(sources(*given.values()))
    assert value(samples, "service_up", service="engine") == 0
    assert not [name for name, _ in samples if name == "blackbird_orders_total"]


def test_nothing_heard_yet_is_a_page_of_services_that_are_down() -> None:
    samples = scrape(Sources(Board(), History(), QueueWatch(no_session), FREE, None))
    assert {name for name, _ in samples} == {"blackbird_service_up"}
    assert set(samples.values()) == {0}
