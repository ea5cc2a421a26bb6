#!/usr/bin/env bash
# Adds to uv.lock the addresses and hashes that `uv sync --frozen` installs by, from the index that this build uses:
# git keeps names and versions alone (deploy/lockfile_filter.py). Fails where a version would be another one.
set -euo pipefail
pinned=$(mktemp)
python deploy/lockfile_filter.py <uv.lock >"$pinned"
cp "$pinned" uv.lock
uv lock
python deploy/lockfile_filter.py <uv.lock | diff "$pinned" - || {
  echo "uv.lock does not pin what pyproject.toml asks for: run uv lock in the checkout" >&2
  exit 1
}
rm "$pinned"
