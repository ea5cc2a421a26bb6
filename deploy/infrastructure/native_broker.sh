# shellcheck shell=bash
# RabbitMQ without Docker: a node of its own below $native_broker, apart from any broker of the system.

# The packaged commands under /usr/sbin insist on the system's node; these do not.
rabbitmq_bin=/usr/lib/rabbitmq/bin
# Where Erlang's programs are, if not on the path.
erlang_bin=

install_rabbitmq() {
  find_rabbitmq
  [ ! -x "$rabbitmq_bin/rabbitmq-server" ] || return 0
  command -v apt-get >/dev/null || fail "$neither_docker_nor_apt"
  apt_install rabbitmq-server
  disable_packaged_broker
}

# The package wants a broker of its own on port 5672 and on all interfaces after each boot, whichever init the machine
# has then.
disable_packaged_broker() {
  {
    ! command -v systemctl >/dev/null || as_root systemctl disable rabbitmq-server || true
    ! command -v update-rc.d >/dev/null || as_root update-rc.d rabbitmq-server disable || true
    as_root rm -f /etc/systemd/system/*.wants/rabbitmq-server.service
  } >>"$here/.tools/apt.log" 2>&1
}

missing_package_broker() {
  [ "$RABBITMQ_RELEASE" != installed ] || [ -x "$rabbitmq_bin/rabbitmq-server" ] || printf 'rabbitmq-server\n'
}

broker_owner() { owner_of "$native_broker/mnesia" rabbitmq; }

# The environment of the node and of the commands for it. Nothing is taken from the system's broker.
broker_environment() {
  local folder distribution_port name_service_port user=$RABBITMQ_DEFAULT_USER password=$RABBITMQ_DEFAULT_PASS
  folder=$(readlink -f "$native_broker")
  read -r distribution_port name_service_port <"$folder/ports"
  # A running broker is talked to with the programs that it was started with, whatever release the settings name now.
  [ ! -s "$folder/programs" ] || { read -r rabbitmq_bin && read -r erlang_bin || true; } <"$folder/programs"
  clean_environment
  [ -z "$erlang_bin" ] || export PATH=$erlang_bin:$PATH
  export HOME=$folder/home
  # The first start makes this user.
  export RABBITMQ_DEFAULT_USER=$user RABBITMQ_DEFAULT_PASS=$password
  export RABBITMQ_NODENAME=blackbird@localhost
  export RABBITMQ_CONF_ENV_FILE=$folder/rabbitmq-env.conf
  export RABBITMQ_CONFIG_FILE=$folder/rabbitmq.conf
  export RABBITMQ_ADVANCED_CONFIG_FILE=$folder/advanced.config
  export RABBITMQ_ENABLED_PLUGINS_FILE=$folder/enabled_plugins
  export RABBITMQ_MNESIA_BASE=$folder/mnesia
  export RABBITMQ_LOG_BASE=$folder/log
  export RABBITMQ_GENERATED_CONFIG_DIR=$folder/config
  export RABBITMQ_SCHEMA_DIR=$folder/schema
  export RABBITMQ_FEATURE_FLAGS_FILE=$folder/feature_flags
  export RABBITMQ_PID_FILE=$folder/node.pid
  export RABBITMQ_DIST_PORT=$distribution_port
  export ERL_EPMD_PORT=$name_service_port ERL_EPMD_ADDRESS=127.0.0.1
  # Without busy waiting of its schedulers, and without binding them to cores: the services need these too.
  # Quorum queues keep what is in their log in memory too: 64 MB of it, not 512.
  export RABBITMQ_SCHEDULER_BIND_TYPE=u
  export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="+sbwt none +sbwtdcpu none +sbwtdio none -ra wal_max_size_bytes 67108864 -kernel inet_dist_use_interface {127,0,0,1}"
  # The server's script is replaced by the server, so that there is one process to stop.
  export RUNNING_UNDER_SYSTEMD=true
}

# Two free ports outside the range that the kernel hands out to outgoing connections.
free_ports() {
  "$python" - <<'TEXT'
import random, socket
found = []
while len(found) < 2:
    candidate = socket.socket()
    try:
        candidate.bind(("127.0.0.1", random.randint(20000, 32000)))
    except OSError:
        continue
    found.append(candidate)
print(*(each.getsockname()[1] for each in found))
TEXT
}

broker_configuration() {
  cat <<TEXT
listeners.tcp.1 = 127.0.0.1:$RABBITMQ_PORT
management.tcp.ip = 127.0.0.1
management.tcp.port = $RABBITMQ_MANAGEMENT_PORT
cluster_name = blackbird $here
log.file.rotation.size = 10485760
log.file.rotation.count = 3
TEXT
  [ ! -e "$native_broker/metrics" ] || printf 'prometheus.tcp.ip = 127.0.0.1\nprometheus.tcp.port = %s\n' "$RABBITMQ_METRICS_PORT"
}

# Its own metrics are on once `setup.sh metrics` was asked for: a second broker on this machine needs another port.
broker_plugins() {
  if [ -e "$native_broker/metrics" ]; then printf '[rabbitmq_management,rabbitmq_prometheus].\n'; else printf '[rabbitmq_management].\n'; fi
}

# fill_broker_folder FOLDER
fill_broker_folder() {
  mkdir -p "$1"/{home,log,mnesia}
  broker_configuration >"$1/rabbitmq.conf"
  broker_plugins >"$1/enabled_plugins"
  : >"$1/rabbitmq-env.conf"
  [ ! -s "$1/ports" ] || stop_name_service
  free_ports >"$1/ports"
  [ -s "$1/home/.erlang.cookie" ] ||
    (umask 377 && "$python" -c 'import secrets; print(secrets.token_hex(16), end="")' >"$1/home/.erlang.cookie")
}

native_broker_start() {
  local owner folder log
  install_rabbitmq
  owner=$(broker_owner)
  server_folder "$native_broker" "$owner"
  hide_from_tools "$RABBITMQ_DATA_PATH"
  folder=$(readlink -f "$native_broker")
  log=$folder/log/server.log
  own_folder "$folder" "$owner"
  check_release "$folder"
  fill_broker_folder "$folder"
  rabbitmq_version >"$folder/release"
  printf '%s\n' "$rabbitmq_bin" "$erlang_bin" >"$folder/programs"
  chown -R "$owner" "$folder"
  say "broker: starting RabbitMQ on port $RABBITMQ_PORT, data in $native_broker"
  as_owner_detached "$owner" "$log" broker_environment "$rabbitmq_bin/rabbitmq-server"
  printf '%s\n' "$started_pid" >"$folder/server.pid"
  answer=$(ask broker --wait 90 --pid "$started_pid")
  answered_by_started broker "$log"
}

# native_broker_pid: the process of this checkout's own broker, if it runs.
native_broker_pid() {
  local folder pid
  folder=$(readlink -f "$native_broker" 2>/dev/null) && pid=$(cat "$folder/server.pid" 2>/dev/null) || return 1
  grep -qzxF "RABBITMQ_MNESIA_BASE=$folder/mnesia" "/proc/$pid/environ" 2>/dev/null && printf '%s' "$pid"
}

native_broker_stop() {
  local pid=$1
  # RabbitMQ 3.10 waits 5 s for itself when this handler of the management plugin is still there at its end.
  (broker_environment && exec "$rabbitmq_bin/rabbitmqctl" --timeout 5 eval \
    'gen_event:delete_handler(rabbit_event, rabbit_mgmt_db_handler, stop).') >/dev/null 2>&1 9>&- || true
  kill -TERM "$pid" || fail "the broker (process $pid) cannot be stopped: run as its user, or as root"
  wait_until_gone "$pid" 90 || fail "the broker (process $pid) has not stopped after 90 s"
  stop_name_service
}

# Erlang's name service of this node outlives it; it refuses to go while another node is registered with it.
stop_name_service() {
  (broker_environment && exec epmd -kill) >/dev/null 2>&1 9>&- || true
}
