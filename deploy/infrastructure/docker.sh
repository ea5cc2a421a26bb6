# shellcheck shell=bash
# The two servers as containers of docker-compose.yml.

docker_answers() {
  [ "$INFRASTRUCTURE" != native ] || return 1
  [ -n "${docker_engine-}" ] || docker_engine=$(docker version --format '{{.Server.Version}}' 2>/dev/null) || docker_engine=none
  [ "$docker_engine" != none ]
}

compose() {
  local project
  project=$(compose_project)
  if docker compose version >/dev/null 2>&1; then
    (cd "$here" && docker compose -p "$project" "$@")
  elif command -v docker-compose >/dev/null; then
    (cd "$here" && docker-compose -p "$project" "$@")
  else
    fail "a Docker engine answers but there is no docker compose: install it, or say INFRASTRUCTURE=native"
  fi
}

# Compose's own default, so that a plain `docker compose` means the same; another pair of servers is another project.
compose_project() {
  local name
  name=$(basename "$here")
  [ "$CONTAINER_NAME_DB" = timescaledb ] && [ "$CONTAINER_NAME_RABBITMQ" = rabbitMQ ] ||
    name=$name-$CONTAINER_NAME_DB-$CONTAINER_NAME_RABBITMQ
  printf '%s' "$name" | tr '[:upper:]' '[:lower:]' | tr -cd 'a-z0-9_-' | sed 's/^[_-]*//'
}

container_name() {
  if [ "$1" = database ]; then printf '%s' "$CONTAINER_NAME_DB"; else printf '%s' "$CONTAINER_NAME_RABBITMQ"; fi
}

# docker_owns database|broker: this checkout's container runs.
docker_owns() {
  docker_answers && [ -n "$(docker ps -q --filter "name=^/?$(container_name "$1")\$" \
    --filter "label=com.docker.compose.project=$(compose_project)" \
    --filter "label=com.docker.compose.project.working_dir=$here")" ]
}

# docker_container database|broker: the container behind the server's port, whoever started it.
docker_container() {
  local port=$RABBITMQ_PORT
  [ "$1" = broker ] || port=$POSTGRES_PORT
  on_this_machine "$1" && docker_answers && docker ps -q --filter "publish=$port" | head -n 1
}

docker_start() {
  local native=$native_broker
  [ "$1" = broker ] || native=$native_database
  say "$1: starting container $(container_name "$1")"
  [ ! -e "$native" ] || warn "the data of the native $1 stays in $native and is not used (INFRASTRUCTURE=native uses it)"
  compose up -d "$1" 9>&- || fail "docker compose could not start the $1 (INFRASTRUCTURE=native ./setup.sh goes without Docker)"
  answer=$(ask "$1" --wait 120)
  case $answer in
    away* | starting* | strange*)
      compose logs --tail 20 "$1" >&2
      fail "the container of the $1 does not answer: $answer"
      ;;
  esac
}

# The container goes, its data stays: the name is free for another checkout.
docker_stop() {
  compose rm --stop --force "$1" 9>&- >/dev/null
}
