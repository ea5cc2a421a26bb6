#!/usr/bin/env bash
# Checks and tests: ./setup.sh and what the tests alone need, then ruff, mypy, the import rules and pytest, which gets all arguments.
#   ./run_tests.sh                      everything but what is marked slow or soak
#   ./run_tests.sh tests/system/test_launcher.py -k restart
#   ./run_tests.sh -m slow
#   ./run_tests.sh --rabbitmq 4.0       with a RabbitMQ of that release (3.10, 4.0, 4.3) of the tests' own, beside any other
set -euo pipefail
cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")"

# Of the caller's environment only what finds programs, folders, the network and the two servers: nothing else may
# cause a failure or hide one.
kept='HOME|PATH|USER|LOGNAME|TERM|TMPDIR|LANG|XDG_[A-Z]*_HOME|BLACKBIRD_SHARED|CI|HYPOTHESIS_PROFILE|DOCKER_[A-Z_]*'
kept+='|(HTTPS?|NO|ALL)_PROXY|(https?|no|all)_proxy|(PIP|UV)_[A-Z_]*|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE'
kept+='|INFRASTRUCTURE|CONTAINER_NAME_[A-Z]*|PGDATA_PATH|POSTGRES_(HOST|PORT|USER|PASSWORD|BIN_PATH)'
kept+='|RABBITMQ_(HOST|PORT|MANAGEMENT_PORT|DEFAULT_USER|DEFAULT_PASS|DATA_PATH|HOSTNAME|RELEASE)'
if [ -z "${BLACKBIRD_CLEAN-}" ]; then
  clean=(BLACKBIRD_CLEAN=1)
  while IFS= read -r name; do
    [[ ! $name =~ ^($kept)$ ]] || clean+=("$name=${!name}")
  done < <(compgen -e)
  exec env -i "${clean[@]}" ./run_tests.sh "$@"
fi
unset BLACKBIRD_CLEAN

# Nothing here may wait for an answer.
exec </dev/null

if [ "${1-}" = --rabbitmq ]; then
  export RABBITMQ_RELEASE=${2:?expected a release of RabbitMQ} RABBITMQ_HOST=localhost
  # 3.10 is on ports 5310 and 15310, 4.0 on 5400 and 15400.
  digits=${RABBITMQ_RELEASE//./}
  export RABBITMQ_PORT=5$digits RABBITMQ_MANAGEMENT_PORT=15$digits
  [ ${#digits} = 3 ] || export RABBITMQ_PORT=5${digits}0 RABBITMQ_MANAGEMENT_PORT=15${digits}0
  export RABBITMQ_DATA_PATH=./rabbitmq_data-$RABBITMQ_RELEASE
  shift 2
  trap './setup.sh stop broker' EXIT
fi

./setup.sh
deploy/infrastructure/test_tools.sh
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
.venv/bin/lint-imports
# Three workers on two cores, for tests wait a lot. A file stays on one of them; each test has a virtual host
# and a database of its own. They run real processes on a shared machine: a test that fails is run once more, and its
# first failure is shown (RERUN). ./run_tests.sh --reruns 0 does without.
.venv/bin/python -m pytest -n 3 --dist loadfile --reruns 1 --max-suite-reruns 5 --rerun-show-tracebacks "$@"
