"""What somebody at a psql prompt finds in a database that setup.sh has prepared."""

from __future__ import annotations

import subprocess

from tests.support.workspace import HERE, PYTHON, Workspace, apply_schema


def test_tables_are_found_without_their_schema(place: Workspace) -> None:
    visible = place.query(
        "SELECT tablename FROM pg_tables WHERE schemaname = 'bybit'"
        " AND pg_table_is_visible(format('bybit.%I', tablename)::regclass)"
    )
    assert {("orderbook",), ("order",)} <= set(visible)
    assert place.query('SELECT count(*) FROM orderbook, "order"') == [(0,)]


def test_a_search_path_of_the_users_own_is_kept(place: Workspace) -> None:
    place.query(f'ALTER DATABASE "{place.name}" SET search_path = elsewhere, public')
    apply_schema(place)
    assert place.query("SHOW search_path") == [("elsewhere, public",)]


def test_the_schema_is_created_and_brought_up_to_date_without_setup_sh(place: Workspace) -> None:
    def apply(**settings: str) -> subprocess.CompletedProcess[str]:
        command = [PYTHON, "-m", "deploy.schema"]
        environment = {**place.environment, **settings}
        return subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True, check=False)

    place.query("DROP SCHEMA bybit CASCADE")
    for _ in range(2):
        done = apply()
        assert (done.returncode, done.stderr) == (0, "")
    assert place.query("SELECT count(*) FROM bybit.orderbook") == [(0,)]
    refused = apply(POSTGRES_PORT="1")
    assert refused.returncode == 1
    assert "could not be applied" in refused.stderr
