"""Create the schema in POSTGRES_DB, or bring it up to date: for servers that setup.sh does not run.

usage: python -m deploy.schema

Safe to repeat, also while the services run.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

import psycopg2

from config import Config, check_settings

SCHEMA = Path(__file__).with_name("init.sql")


def main() -> int:
    """Apply the schema; the exit status is 1 where the database does not take it."""
    check_settings()
    # Lines of psql's own, which stop it at the first error; here a statement that fails ends all of them.
    lines = [line for line in SCHEMA.read_text().splitlines() if not line.startswith("\\")]
    settings: dict[str, Any] = Config.DB_CONFIG
    try:
        with contextlib.closing(psycopg2.connect(**settings)) as connection:
            connection.autocommit = True
            connection.cursor().execute("\n".join(lines))
    except psycopg2.Error as error:
        print(f"the schema could not be applied to {Config.POSTGRES_DB}: {error}".strip(), file=sys.stderr)
        return 1
    print(f"the schema of {Config.POSTGRES_DB} is up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main())
