"""The systemd units, checked by systemd's own tools where the machine has them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from config import Settings
from tests.support.deployment import run
from tests.support.workspace import HERE

UNITS = HERE / "deploy/systemd"
SERVICES = sorted(UNITS.glob("*.service"))
# Of 100; systemd calls up to 20 OK and from there on exposed.
EXPOSURE = 15


def lines(unit: Path, name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", unit.read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The units for this checkout, where their programs are."""
    folder = tmp_path_factory.mktemp("units")
    for unit in UNITS.iterdir():
        (folder / unit.name).write_text(unit.read_text().replace("/opt/blackbird", str(HERE)))
    return folder


def systemd_analyze() -> str:
    return shutil.which("systemd-analyze") or pytest.skip("no systemd-analyze on this machine")


def test_systemd_understands_the_units_and_finds_their_programs(installed: Path) -> None:
    said = run(systemd_analyze(), "verify", "--man=no", *sorted(installed.iterdir()))
    # What it does not understand it only mentions.
    assert not [line for line in said.splitlines() if str(installed) in line]


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.stem)
def test_units_are_hardened(installed: Path, unit: Path) -> None:
    run(
        systemd_analyze(),
        "security",
        "--offline=true",
        "--no-pager",
        f"--threshold={EXPOSURE}",
        installed / unit.name,
    )


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.stem)
def test_units_restart_for_ever_but_not_for_a_setting_that_makes_no_sense(unit: Path) -> None:
    assert lines(unit, "Restart") == ["always"]
    assert lines(unit, "StartLimitIntervalSec") == ["0"]
    assert lines(unit, "RestartPreventExitStatus") == ["78"]


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.stem)
def test_units_are_watched_and_have_longer_to_end_than_a_service_takes(unit: Path) -> None:
    assert lines(unit, "Type") == ["notify"]
    assert lines(unit, "WatchdogSec") == ["30"]
    assert int(lines(unit, "TimeoutStopSec")[0]) > 5


def test_the_journal_is_where_the_trading_engine_may_write() -> None:
    unit = UNITS / "blackbird-trading.service"
    assert lines(unit, "Environment") == ["JOURNAL_PATH=/var/lib/blackbird/journal"]
    assert lines(unit, "StateDirectory") == ["blackbird"]


def test_the_target_starts_every_service() -> None:
    wanted = " ".join(lines(UNITS / "blackbird.target", "Wants")).replace("@0", "@").split()
    assert sorted(wanted) == [unit.name for unit in SERVICES]


def test_every_variable_of_a_unit_is_a_setting() -> None:
    named = {line.partition("=")[0] for unit in SERVICES for line in lines(unit, "Environment")}
    assert not named - set(Settings.model_fields)
