"""The SQL of the documents, run on a database that setup.sh's schema was applied to."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.documents import PAGES, blocks, name_of
from tests.support.workspace import Workspace


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "sql")], ids=name_of)
def test_every_statement_can_be_run(page: Path, place: Workspace) -> None:
    timescale = place.query("SELECT 1 FROM pg_extension WHERE extname = 'timescaledb'")
    for block in blocks(page, "sql"):
        if timescale or "drop_chunks" not in block:
            place.query(block)
