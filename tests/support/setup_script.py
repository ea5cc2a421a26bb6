"""setup.sh as a test runs it: with the settings of one pair of servers, from another folder."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists() or "State:\tZ" in Path(f"/proc/{pid}/status").read_text()


@dataclass(frozen=True)
class Answer:
    """What a command printed, and its exit status."""

    status: int
    output: str


class Setup:
    """A checkout's setup.sh with the settings of one pair of servers."""

    def __init__(self, checkout: Path, **settings: str) -> None:
        self.checkout = checkout
        self.settings = settings

    def with_settings(self, **changed: str) -> Setup:
        return Setup(self.checkout, **{**self.settings, **changed})

    def __call__(self, *arguments: str, stdin: str = "") -> Answer:
        """Run from another folder; that it returns shows that no server holds the pipe open."""
        done = subprocess.run(
            [self.checkout / "setup.sh", *arguments],
            cwd="/",
            env={**os.environ, **self.settings},
            input=stdin,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=120,
            check=False,
        )
        return Answer(done.returncode, done.stdout)

    def succeed(self, *arguments: str, stdin: str = "") -> str:
        answer = self(*arguments, stdin=stdin)
        assert answer.status == 0, answer.output
        return answer.output

    def query(self, sql: str) -> str:
        return self.succeed("psql", "-XqAtc", sql).strip()

    def process(self, server: str) -> int:
        """The process that setup.sh started last."""
        folders = {"database": "PGDATA_PATH", "broker": "RABBITMQ_DATA_PATH"}
        files = {"database": "data/postmaster.pid", "broker": "server.pid"}
        pid = int((Path(self.settings[folders[server]]) / "native" / files[server]).read_text().split()[0])
        assert not gone(pid)
        return pid
