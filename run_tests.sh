#!/usr/bin/env bash
# Checks and tests: ./setup.sh, then ruff, mypy and pytest, which gets all arguments.
#   ./run_tests.sh                      everything but what is marked slow or soak
#   ./run_tests.sh tests/system/test_launcher.py -k restart
#   ./run_tests.sh -m slow
set -euo pipefail
cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")"

# Nothing here may wait for an answer.
exec </dev/null

./setup.sh
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
# Three workers on two cores, for tests wait a lot. A file stays on one of them; each test has a virtual host
# and a database of its own.
exec .venv/bin/python -m pytest -n 3 --dist loadfile "$@"
