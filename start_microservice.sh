#!/usr/bin/env bash
# Starts what setup.sh runs, then the four services; ./start_microservice.sh --help says the rest.
set -euo pipefail
cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")"

# The launcher needs nothing but Python until setup.sh has brought the environment.
python=.venv/bin/python
[ -x "$python" ] || python=$(command -v python3) || {
  echo "python3 not found: install Python 3.11 or newer" >&2
  exit 1
}
exec "$python" -m launcher "$@"
