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
    [ -e "$1" ] || : >"$1" || fail "$here/.tools belongs to $(stat -c %U "$here/.tools"): run as that user, or as root"
    (
      flock 9
      "${@:2}"
    ) 9<"$1"
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

# owner_of PATH USER...: UID:GID of the owner of PATH, or of the first USER that exists, as whom its server runs.
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
  real=$(mktemp -d -p "$base" --suffix="$(moved_name "$path")")
  chmod 755 "$real"
  if [ -d "$path" ] && [ ! -L "$path" ]; then
    rmdir "$real"
    mv "$path" "$real"
  fi
  ln -sfn "$real" "$path"
  say "$path is a link to $real: the server's user cannot enter the checkout's folder"
}

# moved_name PATH: how the name of the folder ends that stands in for PATH elsewhere.
moved_name() { printf '_%s' "${1#/}" | tr -c '[:alnum:]._-' _; }

# hide_from_tools FOLDER...: linters and git pass by data in the checkout.
hide_from_tools() {
  local folder
  for folder; do
    case $folder in "$here"/*) [ -e "$folder/.gitignore" ] || printf '*\n' >"$folder/.gitignore" ;; esac
  done
}

# may_install: root, or a sudo that works or can ask for a password.
may_install() {
  [ "$(id -u)" = 0 ] || { command -v sudo >/dev/null && { sudo -n true 2>/dev/null || { : </dev/tty; } 2>/dev/null; }; }
}

# ask_for_packages PACKAGE...
ask_for_packages() {
  local also=
  case " $* " in *" rabbitmq-server "*) also=" && systemctl disable --now rabbitmq-server" ;; esac
  fail "packages are missing and installing them needs root: ask an administrator for 'apt-get install -y --no-install-recommends $*$also' (or start Docker); then again"
}

# as_root COMMAND...
as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    fail "packages must be installed and there is no sudo: run ./setup.sh as root once"
  fi
}

# apt_install PACKAGE...: installs; the packages' own servers are not started and clusters not created on the way.
apt_install() {
  local log=$here/.tools/apt.log
  say "installing $* (apt)"
  # An interrupted installation must not leave the guards behind.
  trap remove_guards EXIT
  set_guards
  {
    as_root apt-get -qq update || warn "apt-get update failed, going on with the lists that are there"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@"
  } </dev/null >"$log" 2>&1 9>&- || {
    tail -n 15 "$log" >&2
    fail "apt-get could not install $*"
  }
  remove_guards
  trap - EXIT
}

# What maintainer scripts ask before they start a server, and before they create a cluster (its port might be ours).
start_guard=/usr/sbin/policy-rc.d
cluster_guard=/etc/postgresql-common/createcluster.d/blackbird.conf

set_guards() {
  if [ ! -e $start_guard ]; then
    printf '#!/bin/sh\n# blackbird: nothing is started while its packages are installed\nexit 101\n' | as_root tee $start_guard >/dev/null
    as_root chmod 755 $start_guard
  fi
  as_root mkdir -p "${cluster_guard%/*}"
  printf 'create_main_cluster = false\n' | as_root tee $cluster_guard >/dev/null
}

remove_guards() {
  ! grep -qs '^# blackbird' $start_guard || as_root rm -f $start_guard
  as_root rm -f $cluster_guard
  as_root rmdir --ignore-fail-on-non-empty -p "${cluster_guard%/*}" 2>/dev/null || true
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

# A dead process that nobody has buried yet does not run.
running() { [ -d "/proc/$1" ] && ! grep -qs '^State:[[:space:]]*Z' "/proc/$1/status"; }

# wait_until_gone PID SECONDS
wait_until_gone() {
  local tries=$(($2 * 20))
  while running "$1"; do
    [ "$((tries -= 1))" -gt 0 ] || return 1
    sleep 0.05
  done
}
