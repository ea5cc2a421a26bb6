# shellcheck shell=bash
# The two servers as containers of docker-compose.yml.

# Sets docker_answers (an engine is there), compose (its compose command) and docker_problem (why it is not used).
find_docker() {
  local said
  docker_answers='' docker_problem='' compose=()
  if [ "$INFRASTRUCTURE" = native ]; then
    docker_problem="INFRASTRUCTURE is native"
  elif ! command -v docker >/dev/null; then
    docker_problem="there is no docker command"
  elif ! said=$(docker version --format '{{.Server.Version}}' 2>&1); then
    docker_problem="no Docker engine answers"
    case $said in *"permission denied"*)
      docker_problem="permission denied on the Docker socket (is $(id -un) in the group docker?)"
      ;;
    esac
  else
    docker_answers=yes
    find_compose || docker_problem="the Docker engine answers but there is no docker compose of version 2"
  fi
}

find_compose() {
  if docker compose version >/dev/null 2>&1; then
    compose=(docker compose)
  elif [[ $(docker-compose version --short 2>/dev/null) =~ ^v?[2-9] ]]; then
    compose=(docker-compose)
  else
    return 1
  fi
}

compose() { (cd "$here" && "${compose[@]}" -f docker-compose.yml "$@" 9>&-); }

container_name() {
  if [ "$1" = database ]; then printf '%s' "$CONTAINER_NAME_DB"; else printf '%s' "$CONTAINER_NAME_RABBITMQ"; fi
}

# docker_folder database|broker: where its data is on this machine.
docker_folder() {
  if [ "$1" = database ]; then printf '%s/docker' "$PGDATA_PATH"; else printf '%s/docker' "$RABBITMQ_DATA_PATH"; fi
}

# label CONTAINER NAME: a label that compose gave the container.
label() { docker inspect --format "{{index .Config.Labels \"com.docker.compose.$2\"}}" "$1"; }

# container_state database|broker: running, exited, restarting and so on, for the container of this checkout.
container_state() {
  [ -n "$docker_answers" ] && docker ps --all --filter "name=^/?$(container_name "$1")\$" \
    --filter "label=com.docker.compose.project.working_dir=$here" --format '{{.State}}' | grep .
}

# docker_owns database|broker: this checkout's container runs.
docker_owns() { [ "$(container_state "$1")" = running ]; }

# docker_container database|broker: the container behind the server's port, run by this checkout or not.
docker_container() {
  local port=$RABBITMQ_PORT
  [ "$1" = broker ] || port=$POSTGRES_PORT
  on_this_machine "$1" && [ -n "$docker_answers" ] && docker ps --quiet --filter "publish=$port" | head -n 1
}

# check_container database|broker: no other container has its name or works on its data, and this checkout's own
# is not on another port.
check_container() {
  local name folder user where ports
  name=$(container_name "$1") folder=$(docker_folder "$1")
  case $(container_state "$1") in running | restarting | paused)
    ports=$(docker inspect --format '{{range .HostConfig.PortBindings}}{{range .}}{{.HostPort}} {{end}}{{end}}' "$name")
    [[ " $ports" = *" $(port_of "$1") "* ]] ||
      fail "this checkout's $1 (container $name) is on port ${ports%% *}: another port needs another data folder and container name too, or ./setup.sh stop $1 first"
    return
    ;;
  esac
  user=$(docker ps --filter "volume=$folder" --filter "volume=$(readlink -m "$folder")" --format '{{.Names}}' | head -n 1)
  [ -z "$user" ] ||
    fail "container $user works on the data in $folder: another pair of servers needs another folder, or stop that container first"
  if [ -n "$(docker ps --all --quiet --filter "name=^/?$name\$")" ]; then
    where=$(label "$name" project.working_dir)
    [ "$where" = "$here" ] ||
      fail "the container name $name is taken${where:+ by the checkout in $where}: choose another (CONTAINER_NAME_DB, CONTAINER_NAME_RABBITMQ)"
    # A stopped one, perhaps of other settings: its data is in the folder, and its name is free for the new one.
    remove_container "$name"
  fi
}

docker_start() {
  check_container "$1"
  say "$1: starting container $(container_name "$1")"
  # Docker would make them root's.
  mkdir -p "$PGDATA_PATH" "$RABBITMQ_DATA_PATH"
  hide_from_tools "$PGDATA_PATH" "$RABBITMQ_DATA_PATH"
  compose up -d "$1" || fail "docker compose could not start the $1 (INFRASTRUCTURE=native ./setup.sh goes without Docker)"
  wait_for_container "$1"
}

# wait_for_container database|broker: until it answers, or Docker had to start it anew: that will not help.
wait_for_container() {
  local name before state=running restarts=0 deadline=$((SECONDS + 120))
  name=$(container_name "$1")
  before=$(docker inspect --format '{{.RestartCount}}' "$name")
  while :; do
    answer=$(ask "$1" --wait 1)
    case $answer in away* | starting*) ;; *) break ;; esac
    # Docker's own word for it, and how often it had to start the container anew.
    read -r state restarts < <(docker inspect --format '{{.State.Status}} {{.RestartCount}}' "$name" 2>/dev/null || echo "gone 0")
    [ "$state" = running ] && [ "$restarts" -le "$before" ] && [ $SECONDS -lt $deadline ] || break
  done
  case $answer in
    away* | starting* | strange*)
      compose logs --tail 20 "$1" >&2
      if [ "$state" = running ] && [ "$restarts" -le "$before" ]; then
        fail "the container of the $1 does not answer: $answer"
      fi
      fail "the container of the $1 ends again and again, see the lines above (docker logs $name); ./setup.sh stop $1 ends it"
      ;;
  esac
}

# The container goes, its data stays: the name is free for another checkout.
docker_stop() {
  local name
  name=$(container_name "$1")
  docker stop -t 60 "$name" >/dev/null && remove_container "$name" || fail "docker could not stop container $name"
}

# remove_container NAME: with its project's last container goes the network. Docker has few addresses for networks.
remove_container() {
  local project
  project=$(label "$1" project)
  docker rm "$1" >/dev/null || return 1
  if [ -z "$(docker ps --all --quiet --filter "label=com.docker.compose.project=$project")" ]; then
    docker network ls --quiet --filter "label=com.docker.compose.project=$project" | xargs -r docker network rm >/dev/null
  fi
}
