"""--help, --version and wrong options of the services: answered, and nothing is started."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from blackbird import __version__
from blackbird.runtime.process import EXIT_INVALID_SETTING
from launcher.__main__ import MONITOR, SERVICES

ROOT = Path(__file__).resolve().parents[2]


def call(service: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    # A service that started would log, and would wait for the broker until the timeout.
    command = [sys.executable, str(ROOT / f"{service}.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)


@pytest.mark.parametrize("service", [*SERVICES, MONITOR])
def test_help_is_shown_and_nothing_is_started(service: str) -> None:
    answer = call(service, "--help")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout.startswith(f"usage: {service}.py [-h] [--version]\n")


def test_the_version_is_shown_and_nothing_is_started() -> None:
    answer = call("signal_service", "--version")
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, f"blackbird {__version__}\n", "")


@pytest.mark.parametrize("argument", ["--halp", "start", "--vers"])
def test_an_unknown_argument_ends_with_the_usage(argument: str) -> None:
    answer = call("trading_engine_service", argument)
    assert answer.returncode == 2
    assert answer.stderr.startswith("usage: trading_engine_service.py")


def test_package_project_and_changelog_agree_on_the_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == __version__


@pytest.mark.parametrize(
    ("service", "setting", "value", "named"),
    [
        ("signal_service", "LOG_LEVEL", "loud", "LOG_LEVEL"),
        ("market_data_collector_service", "ORDERBOOK_DEPTH", "25", "ORDERBOOK_DEPTH"),
        ("trading_engine_service", "JOURNAL_PATH", "/dev/null/journal", "JOURNAL_PATH"),
        ("trading_engine_service", "REAL_ORDER_SENDING", "true", "REAL_MONEY"),
    ],
)
def test_an_invalid_setting_is_one_line_and_a_status_of_its_own(
    service: str, setting: str, value: str, named: str
) -> None:
    command = [sys.executable, str(ROOT / f"{service}.py")]
    # With these keys only the environment is wrong: real money has a switch of its own.
    keys = {"API_KEY": "k", "API_SECRET": "s", "BYBIT_ENVIRONMENT": "mainnet"}
    settings = {**os.environ, **keys, setting: value}
    answer = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=20, check=False)
    assert answer.returncode == EXIT_INVALID_SETTING
    assert len(answer.stderr.splitlines()) == 1
    assert answer.stderr.startswith(f"setting {named}: expected ")
