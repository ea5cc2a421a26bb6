"""Fixtures: a workspace (virtual host and database of the test's own) on the servers that setup.sh runs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from blackbird.market import levels
from tests.support.editions import community, make_plain
from tests.support.workspace import ANY_AGE, HERE, Workspace, workspace

SHARED = (HERE / os.environ.get("BLACKBIRD_SHARED", "../shared")).resolve()
RECORDINGS = SHARED / "recordings"
PAYLOADS = SHARED / "payloads"

# Random cases: the same few each time, or many new ones with HYPOTHESIS_PROFILE=long.
settings.register_profile(
    "short",
    max_examples=100,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
settings.register_profile(
    "long", max_examples=10_000, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))


@pytest.fixture
def own_place(tmp_path: Path) -> Iterator[Workspace]:
    """A virtual host, a database and the services on them; how old a book is does not matter."""
    with workspace(tmp_path, **ANY_AGE) as made:
        yield made


@pytest.fixture
def place(own_place: Workspace) -> Workspace:
    """The place of a test; a module may have another edition of the database in it."""
    return own_place


_PLAIN = "plain PostgreSQL"
_COMMUNITY = pytest.param("TimescaleDB Community", marks=pytest.mark.slow)


@pytest.fixture(params=["as installed", _PLAIN, _COMMUNITY])
def edition(request: pytest.FixtureRequest, own_place: Workspace, tmp_path: Path) -> Iterator[Workspace]:
    """A database of each edition, for queries alone."""
    with _as_edition(request.param, own_place, tmp_path):
        yield own_place


@pytest.fixture(params=["as installed", pytest.param(_PLAIN, marks=pytest.mark.slow), _COMMUNITY])
def each_edition(request: pytest.FixtureRequest, own_place: Workspace, tmp_path: Path) -> Iterator[Workspace]:
    """The same, where one edition is enough for the default suite."""
    with _as_edition(request.param, own_place, tmp_path):
        yield own_place


@contextlib.contextmanager
def _as_edition(name: str, place: Workspace, folder: Path) -> Iterator[None]:
    if name == _PLAIN:
        make_plain(place, folder)
    with community(place) if name.endswith("Community") else contextlib.nullcontext():
        yield


@pytest.fixture
def recordings() -> Path:
    """The folder of recorded markets."""
    if not RECORDINGS.is_dir():
        pytest.skip(f"no recordings at {RECORDINGS} (BLACKBIRD_SHARED says where they are)")
    return RECORDINGS


@pytest.fixture
def payloads() -> Path:
    """The folder of order-book frames from public sources."""
    if not PAYLOADS.is_dir():
        pytest.skip(f"no payloads at {PAYLOADS} (BLACKBIRD_SHARED says where they are)")
    return PAYLOADS


@pytest.fixture(params=[0, levels.FAST_PATH_MIN_BYTES])
def lazy_and_eager_sides(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test twice: with plain sides of few levels left unread like those of many, and as it is."""
    monkeypatch.setattr(levels, "FAST_PATH_MIN_BYTES", request.param)
