# shellcheck shell=bash
# The settings of the two servers: environment, then variables.env, then the defaults below.

say() { printf '%s\n' "$*"; }
warn() { printf 'setup.sh: %s\n' "$*" >&2; }
fail() { warn "$@"; exit 1; }

# Reads NAME=value lines; a name that is set already stays as it is.
read_lines() {
  local line name value
  while IFS= read -r line || [ -n "$line" ]; do
    [[ ${line%$'\r'} =~ ^[[:space:]]*([A-Z_]+)=(.*)$ ]] || continue
    name=${BASH_REMATCH[1]} value=${BASH_REMATCH[2]}
    case $name in POSTGRES_* | PGDATA_PATH | RABBITMQ_* | CONTAINER_NAME_* | INFRASTRUCTURE) ;; *) continue ;; esac
    value=${value%"${value##*[![:space:]]}"}
    [[ $value =~ ^\"(.*)\"$ || $value =~ ^\'(.*)\'$ ]] && value=${BASH_REMATCH[1]}
    [ -n "${!name+set}" ] || printf -v "$name" '%s' "$value"
    export "${name?}"
  done
}

default_settings() {
  cat <<'TEXT'
POSTGRES_HOST=localhost
POSTGRES_PORT=5433
POSTGRES_USER=postgres
POSTGRES_PASSWORD=guest
POSTGRES_DB=postgres
PGDATA_PATH=./pgdata
CONTAINER_NAME_DB=timescaledb
RABBITMQ_HOST=localhost
RABBITMQ_PORT=5672
RABBITMQ_MANAGEMENT_PORT=15672
RABBITMQ_DEFAULT_USER=guest
RABBITMQ_DEFAULT_PASS=guest
RABBITMQ_VHOST=/
RABBITMQ_HOSTNAME=my-rabbit
RABBITMQ_DATA_PATH=./rabbitmq_data
CONTAINER_NAME_RABBITMQ=rabbitMQ
INFRASTRUCTURE=auto
TEXT
}

# A relative folder is relative to the checkout, wherever the script was called from.
absolute() {
  case $1 in /*) printf '%s' "$1" ;; *) printf '%s' "$here/${1#./}" ;; esac
}

check_settings() {
  local name
  for name in POSTGRES_PORT RABBITMQ_PORT RABBITMQ_MANAGEMENT_PORT; do
    [[ ${!name} =~ ^[1-9][0-9]{0,4}$ ]] && [ "${!name}" -le 65535 ] || fail "$name: expected a port, was '${!name}'"
  done
  for name in POSTGRES_HOST POSTGRES_USER POSTGRES_PASSWORD POSTGRES_DB PGDATA_PATH \
    RABBITMQ_HOST RABBITMQ_DEFAULT_USER RABBITMQ_DEFAULT_PASS RABBITMQ_VHOST RABBITMQ_DATA_PATH; do
    [ -n "${!name}" ] || fail "$name: expected a value, was empty"
  done
  case $INFRASTRUCTURE in auto | docker | native) ;; *) fail "INFRASTRUCTURE: expected auto, docker or native, was '$INFRASTRUCTURE'" ;; esac
}

read_settings() {
  [ ! -f "$here/variables.env" ] || read_lines <"$here/variables.env"
  read_lines < <(default_settings)
  check_settings
  PGDATA_PATH=$(absolute "$PGDATA_PATH")
  RABBITMQ_DATA_PATH=$(absolute "$RABBITMQ_DATA_PATH")
  native_database=$PGDATA_PATH/native
  native_broker=$RABBITMQ_DATA_PATH/native
}
