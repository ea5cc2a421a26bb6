# shellcheck shell=bash
# What the two native servers need of the machine: a lock, users, folders, packages, processes.

# locked COMMAND...: one start or stop at a time of the same pair of servers.
locked() {
  local file
  file=$here/.tools/$(printf '%s' "$PGDATA_PATH $RABBITMQ_DATA_PATH" | cksum | cut -d' ' -f1).lock
  with_lock "$file" "$@"
}

# with_lock FILE COMMAND...
with_lock() {
  mkdir -p "$here/.tools"
  if command -v flock >/dev/null; then
    (
      flock 9
      "${@:2}"
    ) 9>"$1"
  else
    "${@:2}"
  fi
}

# as_owner UID:GID COMMAND...: root becomes that user, anyone else stays who he is.
as_owner() {
  if [ "$(id -u)" = 0 ]; then
    setpriv --reuid="${1%:*}" --regid="${1#*:}" --clear-groups "${@:2}"
  else
    "${@:2}"
  fi
}

# owner_of PATH USER...: UID:GID of whoever has PATH, or of the first USER that exists, as whom its server runs.
owner_of() {
  local user
  if [ "$(id -u)" != 0 ]; then
    printf '%s:%s' "$(id -u)" "$(id -g)"
  elif [ -e "$1" ] && [ "$(stat -L -c %u "$1")" != 0 ]; then
    stat -L -c %u:%g "$1"
  else
    for user in "${@:2}" nobody; do
      id "$user" >/dev/null 2>&1 && printf '%s:%s' "$(id -u "$user")" "$(id -g "$user")" && return
    done
  fi
}

# server_folder PATH OWNER: makes a folder that OWNER can enter. Where the way to PATH is closed to OWNER
# (a checkout in a private home folder) the folder is made elsewhere and PATH is a link to it.
server_folder() {
  local path=$1 owner=$2 real base=/var/lib/blackbird
  mkdir -p "$(dirname "$path")"
  if [ -d "$path" ] && as_owner "$owner" test -x "$path/."; then
    return
  elif as_owner "$owner" test -x "$(dirname "$path")/."; then
    [ -d "$path" ] || mkdir "$path"
    return
  fi
  # What is temporary stays temporary.
  case $path in /tmp/*) base=/tmp/blackbird ;; esac
  mkdir -p "$base"
  real=$(mktemp -d "$base/$(printf '%s' "${path#/}" | tr -c '[:alnum:]._-' _).XXXXXX")
  chmod 755 "$real"
  if [ -d "$path" ] && [ ! -L "$path" ]; then
    rmdir "$real"
    mv "$path" "$real"
  fi
  ln -sfn "$real" "$path"
  say "$path is a link to $real: the server's user cannot enter the checkout's folder"
}

# as_root COMMAND...
as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    fail "packages must be installed and there is no sudo: run as root: $*"
  fi
}

# apt_install PACKAGE...: installs and keeps the packages' own servers from being started or created on the way.
apt_install() {
  local guard=/usr/sbin/policy-rc.d clusters=/etc/postgresql-common/createcluster.d/blackbird.conf guarded=no
  say "installing $* (apt)"
  [ -e "$guard" ] || guarded=yes
  if [ $guarded = yes ]; then
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$guard" >/dev/null
    as_root chmod 755 "$guard"
  fi
  as_root mkdir -p "${clusters%/*}"
  printf 'create_main_cluster = false\n' | as_root tee "$clusters" >/dev/null
  # An interrupted installation must not leave the guards behind.
  # shellcheck disable=SC2064 # the values of now are meant
  trap "as_root rm -f '$clusters'; [ $guarded = no ] || as_root rm -f '$guard'" EXIT
  {
    as_root apt-get -qq update || warn "apt-get update failed, trying with the lists that are there"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@"
  } </dev/null >"$here/.tools/apt.log" 2>&1 9>&- || {
    tail -n 15 "$here/.tools/apt.log" >&2
    fail "apt-get could not install $*"
  }
  as_root rm -f "$clusters"
  [ $guarded = no ] || as_root rm -f "$guard"
  trap - EXIT
}

# detached LOG PREPARE COMMAND...: starts a server that outlives the script, with the environment that PREPARE makes;
# no pipe, terminal or lock of the caller stays open in it. Sets started_pid.
detached() {
  (
    cd /
    exec </dev/null >>"$1" 2>&1
    for fd in /proc/self/fd/*; do
      fd=${fd##*/}
      [ "$fd" -le 2 ] || exec {fd}>&-
    done
    "$2"
    exec setsid "${@:3}"
  ) &
  started_pid=$!
}

# as_owner_detached OWNER LOG PREPARE COMMAND...
as_owner_detached() {
  if [ "$(id -u)" = 0 ]; then
    detached "$2" "$3" setpriv "--reuid=${1%:*}" "--regid=${1#*:}" --clear-groups "${@:4}"
  else
    detached "${@:2}"
  fi
}

# A server sees nothing of the caller's environment that would change it, and no secrets.
clean_environment() {
  local name
  while IFS= read -r name; do
    case $name in PATH | HOME) ;; *) unset "$name" ;; esac
  done < <(compgen -e)
  export LC_ALL=C.UTF-8
}

# wait_until_gone PID SECONDS
wait_until_gone() {
  local tries=$(($2 * 20))
  while [ -d "/proc/$1" ]; do
    [ "$((tries -= 1))" -gt 0 ] || return 1
    sleep 0.05
  done
}
