# shellcheck shell=bash
# The two servers, run by this checkout (natively or in Docker), by another checkout, or by somebody else.

neither_docker_nor_apt="no Docker engine answers and there is no apt to install native servers with: start Docker, \
or set POSTGRES_HOST and RABBITMQ_HOST (with ports and credentials) to servers that run elsewhere"

# ask database|broker [--wait SECONDS] [--pid PID]: one word and a detail, see answers.py.
ask() { "$python" "$here/deploy/infrastructure/answers.py" "$@" 9>&-; }

port_of() { if [ "$1" = database ]; then printf '%s' "$POSTGRES_PORT"; else printf '%s' "$RABBITMQ_PORT"; fi; }

# A host may have a port of its own, and there may be several, see config.py.
address_of() {
  if [ "$1" = database ]; then address "$POSTGRES_HOST" "$POSTGRES_PORT"; else address "$RABBITMQ_HOST" "$RABBITMQ_PORT"; fi
}

address() {
  case $1 in *,* | *[!:]:[!:]*) printf '%s' "$1" ;; *) printf '%s:%s' "$1" "$2" ;; esac
}

# native_folder database|broker
native_folder() { if [ "$1" = database ]; then printf '%s' "$native_database"; else printf '%s' "$native_broker"; fi; }

# has_data FOLDER: there is something in it, or it is closed to this user, as a server's folder is.
has_data() { [ -d "$1" ] && { [ ! -r "$1" ] || [ -n "$(ls -A "$1")" ]; }; }

on_this_machine() {
  # One that is named with a port of its own is somebody else's to start.
  case $(address_of "$1") in
    *,*) return 1 ;;
    "localhost:$(port_of "$1")" | 127.*":$(port_of "$1")" | "::1:$(port_of "$1")") ;;
    *) return 1 ;;
  esac
}

# own_folder FOLDER OWNER: the folder is OWNER's alone.
own_folder() {
  [ "$(id -u)" != 0 ] || chown "$2" "$1"
  [ -O "$1" ] || [ "$(id -u)" = 0 ] || fail "$1 belongs to $(stat -c %U "$1"): run as that user, or as root"
  chmod 700 "$1"
}

# start_server database|broker: has it running with what Blackbird needs in it.
start_server() {
  answer=$(ask "$1")
  case $answer in
    starting*)
      say "$1: waiting for the server at $(address_of "$1")"
      answer=$(ask "$1" --wait 30)
      ;;
    away*) start_own "$1" ;;
  esac
  case $answer in
    ready* | missing*)
      refuse_foreign "$1"
      say "$1: $(address_of "$1"), $(who_runs "$1")"
      ;;
    refused*) fail "$(refusal_of "$1")" ;;
    full*) fail "the $1 at $(address_of "$1") ($(who_runs "$1")) takes no more connections: ${answer#* }. End some of its clients, or raise its limit" ;;
    *) fail "$(address_of "$1") is not a usable $1: $answer" ;;
  esac
  "prepare_$1"
}

start_own() {
  local pid
  on_this_machine "$1" || fail "the $1 at $(address_of "$1") does not answer: ${answer#* }"
  if pid=$("native_$1_pid"); then
    fail "this checkout's $1 (process $pid) runs on another port: another port needs another data folder too, or ./setup.sh stop $1 first"
  fi
  choose_way "$1"
  if [ "$way" = docker ]; then docker_start "$1"; else "native_$1_start"; fi
}

# choose_way database|broker: sets way to docker or native. What is in the data folder of the other way would not be
# seen in this one, so that is never decided by whether a Docker engine happens to answer.
choose_way() {
  local native docker
  native=$(native_folder "$1") docker=$(docker_folder "$1")
  way=$INFRASTRUCTURE
  # A release that was asked for is not that of the image.
  if [ "$1" = broker ] && [ "$RABBITMQ_RELEASE" != installed ]; then way=native; fi
  if [ "$way" = docker ]; then
    [ -z "$docker_problem" ] || fail "$docker_problem"
    ! has_data "$native" || warn "the data of the native $1 stays in $native and is not used (INFRASTRUCTURE=native uses it)"
  elif [ "$way" = auto ] && [ -z "$docker_problem" ]; then
    way=docker
    ! has_data "$native" ||
      fail "the $1 has data of a native server in $native, and Docker would not use it: INFRASTRUCTURE=native goes on with it, INFRASTRUCTURE=docker leaves it"
  elif [ "$way" = auto ]; then
    way=native
    ! has_data "$docker" ||
      fail "the $1 has data of Docker in $docker, but $docker_problem: start Docker, or say INFRASTRUCTURE=native for a native server, which starts empty"
    case $docker_problem in "there is no docker command" | "no Docker engine answers") ;; *) warn "$docker_problem: going on without Docker" ;; esac
  fi
}

# refuse_foreign database|broker: a server that no Blackbird started must not stand in for this checkout's own data.
refuse_foreign() {
  local folder own=
  for folder in "$(native_folder "$1")" "$(docker_folder "$1")"; do ! has_data "$folder" || own=$folder; done
  if [ -n "$own" ] && [ "$USE_FOREIGN_SERVERS" = False ] && [[ $(who_runs "$1") = "$not_ours"* ]]; then
    fail "the $1 at $(address_of "$1") was not started by Blackbird, and this checkout's own data is in $own: stop that $1, \
or take another port, or say USE_FOREIGN_SERVERS=true to use it as it is"
  fi
}

# check_packages [database|broker]: before anything is started, whether an administrator has to install something.
check_packages() {
  local server missing=() way
  ! may_install || return 0
  for server in ${1:-database broker}; do
    answer=$(ask "$server")
    if [[ $answer = away* ]] && on_this_machine "$server" && ! "native_${server}_pid" >/dev/null; then
      choose_way "$server"
      [ "$way" = docker ] || mapfile -t -O "${#missing[@]}" missing < <("missing_package_$server")
    fi
  done
  [ ${#missing[@]} = 0 ] || ask_for_packages "${missing[@]}"
}

# answered_by_started database|broker LOG
answered_by_started() {
  case $answer in
    away* | starting* | strange*)
      tail -n 15 "$2" >&2
      fail "the $1 does not start: $answer (see $2)"
      ;;
  esac
}

refusal_of() {
  local names="RABBITMQ_DEFAULT_USER and RABBITMQ_DEFAULT_PASS" user=$RABBITMQ_DEFAULT_USER
  [ "$1" = broker ] || names="POSTGRES_USER and POSTGRES_PASSWORD" user=$POSTGRES_USER
  printf 'the %s at %s (%s) refuses user %s with the configured password: %s. Set %s to its own, or take another port and data folder' \
    "$1" "$(address_of "$1")" "$(who_runs "$1")" "$user" "${answer#* }" "$names"
}

not_ours="not run by this checkout, used as it is"

# who_runs database|broker: in words.
who_runs() {
  local pid folder other
  folder=$(native_folder "$1")
  if pid=$("native_$1_pid"); then
    printf 'native (process %s), run by this checkout, data in %s' "$pid" "$folder"
  elif docker_owns "$1"; then
    printf 'container %s, run by this checkout, data in %s/docker' "$(container_name "$1")" "${folder%/native}"
  else
    other=$(other_checkout "$1")
    if [ -n "$other" ]; then
      printf 'run by the checkout in %s, used as it is' "$other"
    else
      printf '%s' "$not_ours"
    fi
  fi
}

# other_checkout database|broker: the folder of the checkout that runs it, as far as the server or Docker tells.
other_checkout() {
  local container found=
  container=$(docker_container "$1") || container=
  if [ -n "$container" ]; then
    found=$(docker inspect --format '{{index .Config.Labels "com.docker.compose.project.working_dir"}}' "$container")
  fi
  if [ -z "$found" ] && [ "$1" = database ]; then
    found=$(database_client -XAtc "select current_setting('blackbird.checkout', true)" 2>/dev/null) || found=
  elif [ -z "$found" ]; then
    found=$("$python" "$here/deploy/infrastructure/virtual_host.py" checkout 2>/dev/null) || found=
  fi
  printf '%s' "$found"
}

# database_client ARGS: psql with the configured server, user and database; the password goes by the environment.
database_client() {
  local terminal=(-i) container
  container=$(docker_container database) || container=
  (
    unset PGHOSTADDR PGSERVICE
    export PGUSER=$POSTGRES_USER PGDATABASE=${PGDATABASE:-$POSTGRES_DB} PGPASSWORD=$POSTGRES_PASSWORD PGCONNECT_TIMEOUT=10
    export PGOPTIONS=${PGOPTIONS-}
    if [ -n "$container" ]; then
      [ ! -t 0 ] || [ ! -t 1 ] || terminal=(-i -t)
      exec docker exec "${terminal[@]}" -e PGUSER -e PGDATABASE -e PGPASSWORD -e PGOPTIONS "$container" psql "$@"
    fi
    export PGHOST=$POSTGRES_HOSTS PGPORT=$POSTGRES_PORTS
    [ "$PGHOST" = "${PGHOST#*,}" ] || export PGTARGETSESSIONATTRS=read-write
    [ "$POSTGRES_TLS" != True ] || export PGSSLMODE=verify-full PGSSLROOTCERT=${POSTGRES_CA_FILE:-system}
    find_psql
    exec "$psql" "$@"
  )
}

find_psql() {
  psql=$fetched_bin/psql
  [ ! -x "$psql" ] || return 0
  psql=$(command -v psql) || psql=$(system_bin)/psql
  [ ! -x "$psql" ] || return 0
  find_postgres >&2
  psql=$postgres_bin/psql
}

prepare_database() {
  case $answer in missing*) create_database ;; esac
  apply_schema
}

create_database() {
  say "database: creating database $POSTGRES_DB"
  PGDATABASE=postgres database_client -Xq -v ON_ERROR_STOP=1 -v "name=$POSTGRES_DB" \
    <<<"CREATE DATABASE :\"name\" TEMPLATE template0 ENCODING 'UTF8';" ||
    fail "user $POSTGRES_USER cannot create database $POSTGRES_DB"
}

# One transaction, one at a time: two checkouts may do it at once.
apply_schema() {
  {
    printf 'SELECT pg_advisory_xact_lock(5433);\n%s\n' "${1-}"
    cat "$here/deploy/init.sql"
  } | PGOPTIONS='-c client_min_messages=warning' database_client -Xq1 -v ON_ERROR_STOP=1 -o /dev/null -f - ||
    fail "deploy/init.sql could not be applied to database $POSTGRES_DB"
  say "database: schema of $POSTGRES_DB is up to date, $(what_database)"
}

what_database() {
  database_client -XAt <<'TEXT'
SELECT coalesce((SELECT 'TimescaleDB ' || extversion || ' on ' FROM pg_extension WHERE extname = 'timescaledb'),
                'without TimescaleDB, plain tables on ')
       || 'PostgreSQL ' || split_part(current_setting('server_version'), ' ', 1);
TEXT
}

empty_database() {
  apply_schema "SET LOCAL lock_timeout = '10s'; DROP SCHEMA IF EXISTS bybit CASCADE;"
  say "database: $POSTGRES_DB is empty"
}

prepare_broker() {
  case $answer in missing*)
    say "broker: creating virtual host $RABBITMQ_VHOST"
    manage_virtual_host create
    ;;
  esac
}

# A service that loses its queues and rows meanwhile goes on with what it remembers.
refuse_what_is_in_use() {
  local consumed
  consumed=$(cd "$here" && "$python" -m launcher.queues) || consumed=
  [ -z "$consumed" ] ||
    fail "virtual host $RABBITMQ_VHOST is in use and nothing was emptied (consumers on: $consumed):" \
      "end what runs there first; a second demo can have DEMO_NAME=another"
}

empty_virtual_host() {
  manage_virtual_host empty
  say "broker: virtual host $RABBITMQ_VHOST is empty"
}

manage_virtual_host() {
  "$python" "$here/deploy/infrastructure/virtual_host.py" "$1" || fail "virtual host $RABBITMQ_VHOST: could not $1 it"
}

# broker_command ARGS: rabbitmqctl for the broker in use, and for RABBITMQ_VHOST where a command is about one.
broker_command() {
  local container argument
  case " $* " in *" -p"* | *" --vhost"*) ;; *)
    for argument; do
      case $argument in
        -*) continue ;;
        list_vhosts | list_vhost_limits | set_policy_definition) ;;
        *_queue | *_queues | *_exchanges | *_bindings | *_consumers | *_permissions | *_policy | *_policies | *_parameter | \
          *_parameters | set_vhost_limits | clear_vhost_limits) set -- "$@" -p "$RABBITMQ_VHOST" ;;
      esac
      break
    done
    ;;
  esac
  container=$(docker_container broker) || container=
  if native_broker_pid >/dev/null; then
    (broker_environment && exec "$rabbitmq_bin/rabbitmqctl" "$@")
  elif [ -n "$container" ]; then
    docker exec -i "$container" rabbitmqctl "$@"
  elif [ -n "$(other_checkout broker)" ]; then
    fail "the broker at $(address_of broker) is run by the checkout in $(other_checkout broker): use its setup.sh"
  elif command -v rabbitmqctl >/dev/null && on_this_machine broker && [[ $(ask broker) = ready* ]]; then
    as_root rabbitmqctl "$@"
  else
    fail "no broker on this machine answers at $(address_of broker)"
  fi
}

stop_server() {
  local pid
  if pid=$("native_$1_pid"); then
    "native_$1_stop" "$pid"
    say "$1: stopped"
  elif container_state "$1" >/dev/null; then
    docker_stop "$1"
    say "$1: container stopped, its data stays"
  else
    answer=$(ask "$1")
    case $answer in
      away*) say "$1: not running" ;;
      *) say "$1: left alone, $(who_runs "$1")" ;;
    esac
  fi
}

# silent_container database|broker: what status says of a container of ours that does not answer.
silent_container() {
  local state name
  state=$(container_state "$1") || return 0
  name=$(container_name "$1")
  case $state in
    running | restarting) printf '; container %s is %s (docker logs %s)' "$name" "$state" "$name" ;;
    *) printf '; container %s is %s (./setup.sh start starts it, stop removes it)' "$name" "$state" ;;
  esac
}

status() {
  local server all=0
  for server in database broker; do
    answer=$(ask "$server")
    case $answer in
      ready*) say "$server: $(address_of "$server") answers, $(who_runs "$server")" ;;
      missing*)
        say "$server: $(address_of "$server") answers, $(who_runs "$server"); ${answer#* } (./setup.sh start creates it)"
        all=1
        ;;
      away*)
        say "$server: nothing answers at $(address_of "$server")$(silent_container "$server")"
        all=1
        ;;
      *)
        say "$server: $(address_of "$server"): $answer"
        all=1
        ;;
    esac
  done
  [ $all != 0 ] || say "database: $POSTGRES_DB is $(what_database); management screen: http://$RABBITMQ_HOST:$RABBITMQ_MANAGEMENT_PORT"
  return $all
}
