"""Lines of a recording to messages: times, keys, and what is not a recording."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from blackbird.archive.recording import Recording
from blackbird.archive.source import SourceError


def line(t: int, ts: int = 1_000_000, **more: Any) -> str:
    push = {
        "topic": "orderbook.50.BTCUSDT",
        "type": "snapshot",
        "ts": ts,
        "data": {"s": "BTCUSDT", "b": [["1", "2"]], "a": [], "u": 1, "seq": 2},
        "cts": ts - 3,
    }
    return json.dumps({"t": t, "category": "spot", "message": push, **more}) + "\n"


def test_times_are_those_of_the_recording_beginning_at_the_first_push(tmp_path: Path) -> None:
    path = tmp_path / "market.ndjson"
    path.write_text(line(5_000_000) + line(7_999_999, ts=7) + line(2_005_000_000))
    (first, push), (second, _), (third, _) = list(Recording(path))
    assert (first, second, third) == (1_000_000, 1_000_002, 1_002_000)
    assert (push.ts, push.cts, push.matching_key, push.instrument.channel) == (
        1_000_000,
        999_997,
        "a",
        "spot",
    )
    assert (bytes(push.data.b), push.data.u, push.data.seq) == (b'[["1", "2"]]', 1, 2)


def test_what_an_export_adds_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "market.ndjson.gz"
    path.write_bytes(gzip.compress(line(0, published_at=77, matching_key="b", number=78).encode()))
    ((published_at, push),) = list(Recording(path))
    assert (published_at, push.matching_key) == (77, "b")
    assert [key for _, key in list(Recording(path, ["b"]))] == [push]
    assert list(Recording(path, ["a"])) == []


@pytest.mark.parametrize("text", ["{}\n", "not JSON\n", line(0)[:40], '{"t": -1}\n'])
def test_what_is_no_recording_is_named_by_its_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "market.ndjson"
    path.write_text(line(0) + text)
    with pytest.raises(SourceError, match=r"market\.ndjson line 2: expected a recorded push"):
        list(Recording(path))


def test_a_file_cut_short_is_named(tmp_path: Path) -> None:
    path = tmp_path / "market.ndjson.gz"
    path.write_bytes(gzip.compress(line(0).encode() * 100)[:-20])
    with pytest.raises(SourceError, match=r"market\.ndjson\.gz: "):
        list(Recording(path))
