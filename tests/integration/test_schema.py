"""What somebody at a psql prompt finds in a database that setup.sh has prepared."""

from __future__ import annotations

from tests.support.workspace import Workspace, apply_schema


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
