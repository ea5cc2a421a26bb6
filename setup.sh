#!/usr/bin/env bash
# Brings what Blackbird runs on: the Python environment, TimescaleDB and RabbitMQ.
set -euo pipefail
umask 022
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)

usage() {
  cat <<'TEXT'
usage: ./setup.sh                            bring uv, the Python environment and both servers; safe to repeat
       ./setup.sh start [broker|database]    start the servers (and create database, schema and virtual host)
       ./setup.sh stop  [broker|database]    stop what this checkout started
       ./setup.sh status                     say what runs where; exit status 1 unless both answer
       ./setup.sh reset [--yes]              empty POSTGRES_DB and RABBITMQ_VHOST, after asking
       ./setup.sh uninstall [--yes]          stop them and delete all that this script has brought, data included
       ./setup.sh metrics [stop]            start Prometheus, and Grafana where Docker is, for the monitor's metrics
       ./setup.sh psql [ARGS]                a prompt on the database
       ./setup.sh rabbitmqctl [ARGS]         a command for the broker, about RABBITMQ_VHOST unless -p says another
       ./setup.sh --version

Settings come from the environment, then from variables.env. Other ports and folders
(POSTGRES_PORT, PGDATA_PATH, RABBITMQ_PORT, RABBITMQ_MANAGEMENT_PORT, RABBITMQ_DATA_PATH,
with Docker CONTAINER_NAME_DB and CONTAINER_NAME_RABBITMQ too) are another pair of servers.
RABBITMQ_RELEASE=3.10, 4.0 or 4.3 is a native RabbitMQ of that release, whatever is installed.
TEXT
}

version() { sed -n 's/^version = "\(.*\)"$/blackbird \1/p' "$here/pyproject.toml"; }

# shellcheck source=deploy/infrastructure/settings.sh
. "$here/deploy/infrastructure/settings.sh"
# shellcheck source=deploy/infrastructure/machine.sh
. "$here/deploy/infrastructure/machine.sh"
# shellcheck source=deploy/infrastructure/tools.sh
. "$here/deploy/infrastructure/tools.sh"
# shellcheck source=deploy/infrastructure/docker.sh
. "$here/deploy/infrastructure/docker.sh"
# shellcheck source=deploy/infrastructure/native_database.sh
. "$here/deploy/infrastructure/native_database.sh"
# shellcheck source=deploy/infrastructure/rabbitmq_release.sh
. "$here/deploy/infrastructure/rabbitmq_release.sh"
# shellcheck source=deploy/infrastructure/native_broker.sh
. "$here/deploy/infrastructure/native_broker.sh"
# shellcheck source=deploy/infrastructure/servers.sh
. "$here/deploy/infrastructure/servers.sh"
# shellcheck source=deploy/infrastructure/metrics.sh
. "$here/deploy/infrastructure/metrics.sh"
# shellcheck source=deploy/infrastructure/uninstall.sh
. "$here/deploy/infrastructure/uninstall.sh"

# each_server ACTION [broker|database]
each_server() {
  case ${2-} in
    "") "$1" database; "$1" broker ;;
    database | broker) "$1" "$2" ;;
    *) fail "expected broker or database, was $2" ;;
  esac
}

# start [broker|database]
start() {
  check_packages "$@"
  locked each_server start_server "$@"
}

reset() {
  local answer=
  if [ "${1-}" != --yes ]; then
    [ -t 0 ] || fail "reset asks before it empties anything: say --yes where nobody can answer"
    say "This empties database $POSTGRES_DB on port $POSTGRES_PORT and virtual host $RABBITMQ_VHOST on port $RABBITMQ_PORT."
    read -r -p "Type yes to go on: " answer
    [ "$answer" = yes ] || fail "nothing was changed"
  fi
  start
  refuse_what_is_in_use
  locked empty_database
  locked empty_virtual_host
}

main() {
  local command=${1-}
  [ $# = 0 ] || shift
  case $command in
    help | -h | --help) usage; return ;;
    --version) version; return ;;
    "" | start | stop | status | reset | uninstall | metrics | psql | rabbitmqctl) ;;
    *) usage >&2; fail "unknown command: $command" ;;
  esac
  # Settings and servers are read and asked with the environment's Python.
  if [ -z "$command" ] || [ ! -x "$here/.venv/bin/python" ]; then bring_tools >&2; fi
  python=$here/.venv/bin/python
  read_settings
  find_docker
  case $command in
    "") start ;;
    start) start "${1-}" ;;
    stop) locked each_server stop_server "${1-}" ;;
    status) status ;;
    reset) reset "${1-}" ;;
    uninstall) locked uninstall "${1-}" ;;
    metrics) locked metrics "${1-}" ;;
    psql) database_client "$@" ;;
    rabbitmqctl) broker_command "$@" ;;
  esac
}

main "$@"
