"""What a supervisor sees of a service: the time of a file, and systemd's notifications."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from blackbird.runtime.heartbeat import Heartbeat
from tests.support.workspace import HERE

ALIVE = HERE / "deploy/image/alive"


class Supervisor:
    """The end of systemd's protocol that reads, at an address that needs no file."""

    def __init__(self, listening: socket.socket) -> None:
        self._listening = listening
        name = f"blackbird-{uuid.uuid4().hex}"
        self.address = f"@{name}"
        listening.bind(f"\0{name}")
        listening.setblocking(False)

    def received(self) -> list[str]:
        states = []
        while True:
            try:
                states.append(self._listening.recv(100).decode())
            except BlockingIOError:
                return states


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        yield Supervisor(listening)


def probe(file: Path) -> int:
    environment = {"PATH": os.environ["PATH"], "ALIVE_FILE": str(file)}
    return subprocess.run([ALIVE], env=environment, check=False).returncode


def test_systemd_hears_that_a_service_is_ready_alive_and_about_to_end(supervisor: Supervisor) -> None:
    async def run() -> None:
        async with Heartbeat.of("", {"NOTIFY_SOCKET": supervisor.address}).beating():
            await asyncio.sleep(0)

    asyncio.run(run())
    assert supervisor.received() == ["READY=1", "WATCHDOG=1", "STOPPING=1"]


def test_the_file_is_touched_again_and_again_while_the_loop_turns(tmp_path: Path) -> None:
    file = tmp_path / "alive"

    async def run() -> None:
        async with Heartbeat.of(str(file), {}).beating():
            while not file.exists():
                await asyncio.sleep(0)
            os.utime(file, (0, 0))
            while file.stat().st_mtime == 0:
                await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(run(), 60))


def test_a_supervisor_that_is_gone_or_a_file_that_cannot_be_written_disturbs_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> str:
        async with Heartbeat(tmp_path / "missing/alive", str(tmp_path / "nobody")).beating():
            await asyncio.sleep(0)
            return "served"

    assert asyncio.run(run()) == "served"
    assert "ALIVE_FILE" in caplog.text


def test_the_probe_of_the_image_fails_for_a_file_that_is_old_or_missing(tmp_path: Path) -> None:
    file = tmp_path / "alive"
    assert probe(file) != 0
    file.touch()
    assert probe(file) == 0
    an_hour_ago = time.time() - 3600
    os.utime(file, (an_hour_ago, an_hour_ago))
    assert probe(file) != 0
