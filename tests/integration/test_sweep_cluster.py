"""A sweep on a Dask cluster, embedded here: line by line what this machine's processes give."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.workspace import HERE

distributed = pytest.importorskip("distributed", reason="uv sync --group cluster")

SWEEP = ("--sweep", "limit=5e5,1e6", "fee_bp=0,1")


# Dask's own, about sockets and loops that it closes behind the test.
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_gives_the_lines_of_this_machine(recordings: Path, tmp_path: Path) -> None:
    recording = str(recordings / "btc_depth50.ndjson.gz")
    command = [sys.executable, str(HERE / "backtest.py"), "--recording", recording, *SWEEP]
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1"
    ) as cluster:
        there = [*command, "--out", str(tmp_path / "there.csv"), "--cluster", cluster.scheduler_address]
        subprocess.run(there, cwd=tmp_path, check=True, capture_output=True)
    here = [*command, "--out", str(tmp_path / "here.csv")]
    subprocess.run(here, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "there.csv").read_bytes() == (tmp_path / "here.csv").read_bytes()
    assert len((tmp_path / "here.csv").read_text().splitlines()) == 5
