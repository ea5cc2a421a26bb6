# shellcheck shell=bash
# The settings of the two servers, as config.py reads them.

say() { printf '%s\n' "$*"; }
warn() { printf 'setup.sh: %s\n' "$*" >&2; }
fail() { warn "$@"; exit 1; }

# A relative folder is relative to the checkout, wherever the script was called from.
absolute() {
  case $1 in /*) printf '%s' "$1" ;; *) printf '%s' "$here/${1#./}" ;; esac
}

read_settings() {
  local exports
  exports=$(cd "$here" && "$python" -m deploy.infrastructure.settings) || exit 1
  eval "$exports"
  PGDATA_PATH=$(absolute "$PGDATA_PATH")
  RABBITMQ_DATA_PATH=$(absolute "$RABBITMQ_DATA_PATH")
  PROMETHEUS_DATA_PATH=$(absolute "$PROMETHEUS_DATA_PATH")
  native_database=$PGDATA_PATH/native
  native_broker=$RABBITMQ_DATA_PATH/native
}
