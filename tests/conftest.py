"""Fixtures: a workspace (virtual host and database of the test's own) on the servers that setup.sh runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from blackbird.market import levels
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
def place(tmp_path: Path) -> Iterator[Workspace]:
    """A virtual host, a database and the services on them; how old a book is does not matter."""
    with workspace(tmp_path, **ANY_AGE) as made:
        yield made


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
