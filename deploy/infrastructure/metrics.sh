# shellcheck shell=bash
# Prometheus and Grafana for the monitor's metrics: in Docker where an engine answers; natively Debian's Prometheus with
# a configuration, a port and a folder of its own, and the native broker's own plugin.

# metrics [stop]
metrics() {
  case ${1-} in
    "") if [ -n "$docker_answers" ] && [ ${#compose[@]} -gt 0 ]; then metrics_in_docker; else metrics_natively; fi ;;
    stop) stop_metrics ;;
    *) fail "expected stop or nothing, was $1" ;;
  esac
}

metrics_in_docker() {
  compose --profile metrics up -d prometheus grafana postgres-exporter ||
    fail "docker compose could not start Prometheus, Grafana and the database's exporter"
  say "Prometheus: http://127.0.0.1:$PROMETHEUS_PORT, Grafana: http://127.0.0.1:$GRAFANA_PORT"
}

metrics_natively() {
  local owner folder=$PROMETHEUS_DATA_PATH log pid
  if pid=$(prometheus_pid); then
    say "Prometheus: http://127.0.0.1:$PROMETHEUS_PORT (process $pid)"
  else
    install_prometheus
    prometheus_answers && fail "another program answers on port $PROMETHEUS_PORT: set PROMETHEUS_PORT to a free one"
    owner=$(owner_of "$folder/data" prometheus)
    server_folder "$folder" "$owner"
    hide_from_tools "$folder"
    folder=$(readlink -f "$folder")
    log=$folder/prometheus.log
    mkdir -p "$folder/data"
    prometheus_configuration >"$folder/prometheus.yml"
    chown -R "$owner" "$folder"
    as_owner_detached "$owner" "$log" clean_environment prometheus --config.file="$folder/prometheus.yml" \
      --storage.tsdb.path="$folder/data" --storage.tsdb.retention.time=15d \
      --web.listen-address="127.0.0.1:$PROMETHEUS_PORT" --log.level=warn
    printf '%s\n' "$started_pid" >"$folder/server.pid"
    await_prometheus "$log"
    say "Prometheus: http://127.0.0.1:$PROMETHEUS_PORT, data in $PROMETHEUS_DATA_PATH"
  fi
  enable_broker_metrics
  say "Grafana needs Docker: its dashboard is deploy/metrics/grafana/dashboards/blackbird.json"
}

install_prometheus() {
  ! command -v prometheus >/dev/null || return 0
  command -v apt-get >/dev/null || fail "there is no Docker engine, and no apt to install Prometheus with"
  may_install || ask_for_packages prometheus
  apt_install prometheus
  disable_packaged_prometheus
}

# The package wants a Prometheus of its own on all interfaces after each boot.
disable_packaged_prometheus() {
  {
    ! command -v systemctl >/dev/null || as_root systemctl disable prometheus || true
    ! command -v update-rc.d >/dev/null || as_root update-rc.d prometheus disable || true
    as_root rm -f /etc/systemd/system/*.wants/prometheus.service
  } >>"$here/.tools/apt.log" 2>&1
}

prometheus_configuration() {
  sed -e "s/@MONITOR_PORT@/$MONITOR_PORT/" -e "s/@RABBITMQ_METRICS_PORT@/$RABBITMQ_METRICS_PORT/" \
    -e "/exporter, which is there with Docker only/,\$d" "$here/deploy/metrics/prometheus.yml"
}

prometheus_answers() {
  "$python" - "$PROMETHEUS_PORT" <<'TEXT'
import sys, urllib.request
try:
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"http://127.0.0.1:{sys.argv[1]}/-/ready", timeout=2)
except OSError:
    sys.exit(1)
TEXT
}

# await_prometheus LOG
await_prometheus() {
  local tries=150
  until prometheus_answers; do
    if ! running "$started_pid" || [ "$((tries -= 1))" -le 0 ]; then
      tail -n 5 "$1" >&2
      fail "Prometheus does not answer on port $PROMETHEUS_PORT"
    fi
    sleep 0.2
  done
}

# prometheus_pid: the process that this checkout has started, if it runs.
prometheus_pid() {
  local folder pid
  folder=$(readlink -f "$PROMETHEUS_DATA_PATH" 2>/dev/null) && pid=$(cat "$folder/server.pid" 2>/dev/null) || return 1
  tr '\0' '\n' 2>/dev/null <"/proc/$pid/cmdline" | grep -qxF -- "--storage.tsdb.path=$folder/data" && printf '%s' "$pid"
}

# The broker takes its settings up when it starts; one that runs is told at once as well.
enable_broker_metrics() {
  local pid port=$RABBITMQ_METRICS_PORT  # not in the broker's environment
  pid=$(native_broker_pid) || { say "broker: not run natively by this checkout, its own metrics are as they are"; return 0; }
  [ ! -e "$native_broker/metrics" ] || { say "broker: metrics on http://127.0.0.1:$RABBITMQ_METRICS_PORT/metrics"; return 0; }
  : >"$native_broker/metrics"
  (
    broker_environment
    "$rabbitmq_bin/rabbitmqctl" --timeout 10 eval "application:load(rabbitmq_prometheus), application:set_env(rabbitmq_prometheus, tcp_config, [{ip, \"127.0.0.1\"}, {port, $port}])."
    exec "$rabbitmq_bin/rabbitmq-plugins" --timeout 30 enable rabbitmq_prometheus
  ) >>"$here/.tools/metrics.log" 2>&1 9>&- || {
    rm -f "$native_broker/metrics"
    warn "the broker (process $pid) did not turn its metrics on, see .tools/metrics.log"
    return 0
  }
  say "broker: metrics on http://127.0.0.1:$RABBITMQ_METRICS_PORT/metrics"
}

stop_metrics() {
  local pid
  if pid=$(prometheus_pid); then
    kill -TERM "$pid" || fail "Prometheus (process $pid) cannot be stopped: run as its user, or as root"
    wait_until_gone "$pid" 30 || fail "Prometheus (process $pid) has not stopped after 30 s"
    say "Prometheus: stopped"
  fi
  if [ -n "$docker_answers" ] && [ ${#compose[@]} -gt 0 ]; then compose --profile metrics rm -sf prometheus grafana postgres-exporter; fi
}
