# shellcheck shell=bash
# Takes away all that setup.sh has brought and all that the servers keep, and nothing else.

# What tools and services leave in the checkout.
left_behind=(.venv .tools journal logs .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache .schemathesis)

# uninstall [--yes]
uninstall() {
  local answer='' server folder
  if [ "${1-}" != --yes ]; then
    [ -t 0 ] || fail "uninstall asks before it deletes anything: say --yes where nobody can answer"
    say "This stops this checkout's servers and deletes"
    for server in database broker; do say "  $(native_folder "$server") and $(docker_folder "$server")"; done
    say "  $PROMETHEUS_DATA_PATH"
    say "  in $here: ${left_behind[*]}"
    read -r -p "Type yes to go on: " answer
    [ "$answer" = yes ] || fail "nothing was changed"
  fi
  each_server stop_server
  stop_metrics
  delete_folder "$PROMETHEUS_DATA_PATH"
  for server in database broker; do
    delete_folder "$(native_folder "$server")"
    delete_data_of_docker "$(docker_folder "$server")"
  done
  for folder in "$PGDATA_PATH" "$RABBITMQ_DATA_PATH"; do
    [ "$(cat "$folder/.gitignore" 2>/dev/null)" != "*" ] || rm "$folder/.gitignore"
    [ ! -d "$folder" ] || rmdir --ignore-fail-on-non-empty "$folder"
  done
  delete_folder "$timescaledb_folder"
  (cd "$here" && rm -rf "${left_behind[@]}" && find . -name __pycache__ -type d -prune -exec rm -rf {} +)
  say "deleted. What stays: packages of the system (rabbitmq-server and prometheus, if setup.sh installed it) and Docker's images"
}

# delete_folder FOLDER: and what it is a link to, where server_folder has made it so.
delete_folder() {
  local real
  real=$(readlink -f "$1") || return 0
  case $real in /var/lib/blackbird/*"$(moved_name "$1")" | /tmp/blackbird/*"$(moved_name "$1")")
    rm -rf "$real" || fail "$real belongs to $(stat -c %U "$real"): run as that user, or as root"
    rmdir --ignore-fail-on-non-empty "$(dirname "$real")"
    ;;
  esac
  rm -rf "$1" || fail "$1 belongs to $(stat -c %U "$1"): run as that user, or as root"
}

# delete_data_of_docker FOLDER: the files belong to users of the image; Docker may delete them where this user may not.
delete_data_of_docker() {
  local image
  [ -e "$1" ] || return 0
  rm -rf "$1" 2>/dev/null && return
  image=$(sed -n 's/^ *image: //p' "$here/docker-compose.yml" | head -n 1)
  [ -n "$docker_answers" ] && docker run --rm --user 0 --entrypoint rm -v "$(dirname "$1"):/data" "$image" -rf /data/docker ||
    fail "$1 belongs to other users: delete it as root, or start Docker and say ./setup.sh uninstall again"
}
