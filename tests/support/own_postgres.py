"""PostgreSQL servers that a test has to itself: with TLS, with a standby, to be killed."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from config import Config
from tests.support.certificates import Certificate
from tests.support.workspace import connect, free_port, make_database, wait_for


class OwnPostgres:
    """A server on a free port of 127.0.0.1 with the programs of the server that the suite uses."""

    def __init__(self) -> None:
        where: dict[str, Any] = dict(Config.DB_CONFIG)
        with psycopg2.connect(**where) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT setting FROM pg_config WHERE name = 'BINDIR'")
            (found,) = cursor.fetchone() or ("",)
        self._programs = Path(found)
        if not (self._programs / "initdb").exists():
            pytest.skip("the database's programs are not on this machine")
        # PostgreSQL does not run as root.
        self._owner = pwd.getpwnam("postgres") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
        self.port = free_port()
        # Not in pytest's folder, which is closed to that user.
        self.folder = Path(tempfile.mkdtemp(prefix="blackbird-postgres-", dir="/tmp"))
        os.chown(self.folder, self._owner.pw_uid, self._owner.pw_gid)
        self._data = self.folder / "data"
        self.database = "postgres"
        self._server: subprocess.Popen[Any] | None = None

    def create(self, *lines: str) -> None:
        """Create an empty cluster with further `lines` of configuration, and start it."""
        password = self.folder / "password"
        password.write_text(Config.POSTGRES_PASSWORD)
        self._run("initdb", "-D", self._data, "-U", Config.POSTGRES_USER, "-A", "scram-sha-256", "-N",
                  f"--pwfile={password}", "-E", "UTF8", "--locale=C.UTF-8")  # fmt: skip
        password.unlink()
        with (self._data / "postgresql.conf").open("a") as file:
            file.write("\n".join(["wal_level = replica", "fsync = off", *lines, ""]))
        self.start()

    def create_standby_of(self, primary: OwnPostgres) -> None:
        """Copy the primary as a streaming standby, and start it."""
        source = f"host=127.0.0.1 port={primary.port} user={Config.POSTGRES_USER}"
        self._run("pg_basebackup", "-D", self._data, "-R", "-X", "stream", "-c", "fast", "-d", source)
        self.database = primary.database
        self.start()

    def use_certificate(self, certificate: Certificate) -> Sequence[str]:
        """Return the lines of a configuration that has the server speak TLS."""
        for file in (certificate.file, certificate.file.with_suffix(".key")):
            copy = self.folder / file.name
            shutil.copy(file, copy)
            copy.chmod(0o600)
            os.chown(copy, self._owner.pw_uid, self._owner.pw_gid)
        name = self.folder / certificate.file.stem
        return ["ssl = on", f"ssl_cert_file = '{name}.pem'", f"ssl_key_file = '{name}.key'"]

    def start(self) -> None:
        """Start the server, and return when it answers."""
        command = [str(self._programs / "postgres"), "-D", str(self._data), "-c", f"port={self.port}",
                   "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]  # fmt: skip
        with (self.folder / "server.log").open("ab") as log:
            self._server = subprocess.Popen(command, stdout=log, stderr=log, **self._as_owner)
        wait_for(lambda: self.answers, f"PostgreSQL, see {self.folder}/server.log")

    @property
    def answers(self) -> bool:
        """Whether the server takes connections."""
        try:
            self.query("SELECT 1")
        except psycopg2.Error:
            return False
        return True

    def query(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run one statement, and return its rows."""
        with contextlib.closing(connect(self._address, self.database)) as connection:
            cursor = connection.cursor()
            cursor.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    def make_database(self, name: str) -> None:
        """Create a database with the schema, which queries go to from now on."""
        make_database(self._address, name)
        self.database = name

    @property
    def _address(self) -> dict[str, str]:
        return {"POSTGRES_HOST": "127.0.0.1", "POSTGRES_PORT": str(self.port)}

    def promote(self) -> None:
        """Make the standby the primary."""
        self._run("pg_ctl", "promote", "-D", self._data)

    def kill(self) -> None:
        """End the server as a crash would."""
        if self._server is not None:
            self._server.kill()
            self._server.wait()

    def remove(self) -> None:
        """End the server and delete its data."""
        if self._server is not None and self._server.poll() is None:
            self._run("pg_ctl", "stop", "-m", "immediate", "-D", self._data)
            self._server.wait()
        shutil.rmtree(self.folder)

    @property
    def _as_owner(self) -> dict[str, Any]:
        environment = {
            "PGPASSWORD": Config.POSTGRES_PASSWORD,
            "PATH": os.environ["PATH"],
            "LC_ALL": "C.UTF-8",
        }
        owner = {"user": self._owner.pw_uid, "group": self._owner.pw_gid} if os.geteuid() == 0 else {}
        return {"cwd": "/", "env": environment, **owner}

    def _run(self, program: str, *arguments: object) -> None:
        command = [str(self._programs / program), *map(str, arguments)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, **self._as_owner)
        assert done.returncode == 0, f"{program}: {done.stderr}"
