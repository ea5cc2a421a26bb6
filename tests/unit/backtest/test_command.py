"""The command line of backtest.py, as a process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.__main__ import SERVICES

ROOT = Path(__file__).resolve().parents[3]


def call(*arguments: str, script: str = "backtest.py") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_recording_is_a_table_and_no_progress_where_there_is_no_terminal(recordings: Path) -> None:
    answer = call("--recording", str(recordings / "btc_depth50.ndjson.gz"))
    assert (answer.returncode, answer.stderr) == (0, "")
    figures = dict(line.rsplit("  ", 1) for line in answer.stdout.splitlines() if "  " in line.strip())
    figures = {name.strip(): value.strip() for name, value in figures.items()}
    assert figures["closed"] == "633"
    assert figures["total"] == "\u2212156.3801"
    assert figures["refused: risk limit exceed"] == "153"


def test_json_is_the_only_output(recordings: Path) -> None:
    answer = call("--recording", str(recordings / "btc_depth50.ndjson.gz"), "--json")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert json.loads(answer.stdout)["pnl"]["total"] == -156.3800871


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--recording", "/nowhere"], 1, "backtest.py: /nowhere: expected a recording, was no file\n"),
        ([], 2, "usage: backtest.py"),
        (["--recording"], 2, "usage: backtest.py"),
    ],
)
def test_what_is_missing_is_named_in_a_line(arguments: list[str], status: int, said: str) -> None:
    answer = call(*arguments)
    assert (answer.returncode, answer.stdout) == (status, "")
    assert answer.stderr.startswith(said)


def test_an_empty_recording_is_named(tmp_path: Path) -> None:
    path = tmp_path / "empty.ndjson"
    path.touch()
    answer = call("--recording", str(path))
    assert answer.returncode == 1
    assert answer.stderr == f"backtest.py: {path}: expected order-book messages, was empty\n"


@pytest.mark.parametrize("service", SERVICES)
def test_services_load_nothing_that_only_the_commands_need(service: str) -> None:
    unwanted = ("rich", "duckdb", "blackbird.backtest")
    code = f"import sys, {service}; print([name for name in {unwanted} if name in sys.modules])"
    command = [sys.executable, "-c", code]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert answer.stdout == "[]\n"
