"""A stored market through the live pipeline: exported from the database, played by the local exchange.

It works on a database and a virtual host of its own, so that yesterday's market with today's times, and the
orders on it, do not come among the live ones.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from blackbird.market.instrument import Instrument

# The name of the live database, for the launcher that takes over in the environment.
SOURCE = "BLACKBIRD_REPLAY_SOURCE"
FILE = "replay.ndjson.gz"


class ReplayError(Exception):
    """There is nothing to replay; the text says why."""


@dataclass(frozen=True)
class Replay:
    """What is played: a recording, its instruments with their keys, and the port that says how far it is."""

    recording: Path
    keys: dict[Instrument, str]
    speed: float
    control_port: int

    @property
    def subscriptions(self) -> list[dict[str, str]]:
        """The bodies of the subscriptions."""
        return [
            {"symbol": instrument.symbol, "channel": instrument.channel, "matching_key": key}
            for instrument, key in self.keys.items()
        ]

    @property
    def exchange_options(self) -> list[str]:
        """Options of the local exchange."""
        return [
            "--recording",
            str(self.recording),
            "--speed",
            f"{self.speed:g}",
            "--once",
            "--wait-for",
            str(len(self.keys)),
            "--repeat-after",
            "0",
            "--control-port",
            str(self.control_port),
        ]

    def is_over(self) -> bool:
        """Return whether all of it was played; False also while the exchange does not answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.control_port, timeout=5)
        try:
            connection.request("GET", "/counters")
            return bool(json.loads(connection.getresponse().read())["finished"])
        except (OSError, http.client.HTTPException, ValueError):
            return False
        finally:
            connection.close()


def set_apart(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of a replay beside the live system's: names of its own, and that of the source."""
    name = environment.get("REPLAY_NAME", "replay")
    settings = {"POSTGRES_DB": name, "RABBITMQ_VHOST": name}
    if SOURCE not in environment:
        settings[SOURCE] = environment.get("POSTGRES_DB", "")
    return settings


def export(python: Path, root: Path, span: tuple[str, str], logs: Path) -> Path:
    """Export a range of the live database as a recording; raises ReplayError."""
    path = logs / FILE
    environment = {name: value for name, value in os.environ.items() if name != "POSTGRES_DB"}
    if source := os.environ.get(SOURCE):
        environment["POSTGRES_DB"] = source
    begin, end = span
    command = [str(python), str(root / "export.py"), "--from", begin, "--to", end, "--format", "recording"]
    status = subprocess.run([*command, "--out", str(path)], env=environment, check=False).returncode
    if status:
        raise ReplayError(f"the export ended with exit status {status}")
    return path


def prepare(recording: Path, speed: float, control_port: int) -> Replay:
    """Return what there is to play in a recording; raises ReplayError.

    An instrument without a snapshot in it has no book, and is left out.
    """
    from blackbird.archive.recording import Recording  # noqa: PLC0415 - needs the environment

    keys: dict[Instrument, str] = {}
    for _, message in Recording(recording):
        if message.type == "snapshot" or message.instrument in keys:
            keys[message.instrument] = message.matching_key
    if not keys:
        raise ReplayError("expected a snapshot in the range, found none: begin it where a stream began")
    return Replay(recording, keys, speed, control_port)
