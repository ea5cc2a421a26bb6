# shellcheck shell=bash
# PostgreSQL with TimescaleDB without Docker, private to this checkout: $native_database holds data/ and server.log.

# Debian's PostgreSQL 17 with TimescaleDB and every library under it, down to the C library: it runs on older releases too.
timescaledb_packages=(postgresql-17 postgresql-client-17 postgresql-17-timescaledb libaudit1 libc6 libcap-ng0 libcap2
  libcom-err2 libgcc-s1 libgssapi-krb5-2 libicu76 libk5crypto3 libkeyutils1 libkrb5-3 libkrb5support0 libldap2 liblz4-1
  liblzma5 libpam0g libpcre2-8-0 libpq5 libreadline8t64 libsasl2-2 libselinux1 libssl3t64 libstdc++6 libsystemd0 libtinfo6
  libuuid1 libxml2 libxslt1.1 libxxhash0 libzstd1 zlib1g)
timescaledb_folder=$here/.tools/timescaledb
debian_keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# The Debian mirror that this machine uses already, in either format of apt's sources.
debian_mirror() {
  { cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null || true; } |
    grep -v '^ *#' | grep -oE '(https?|file)://?[^ ]+/debian/?( |$)' | head -n 1 | tr -d ' '
}

# Downloads with a private apt state and unpacks into .tools/timescaledb: no root, nothing of the host is changed.
fetch_timescaledb() {
  local mirror work=$here/.tools/timescaledb.part
  command -v apt-get >/dev/null && [ -f "$debian_keyring" ] && mirror=$(debian_mirror) && [ -n "$mirror" ] || return 1
  say "database: fetching TimescaleDB into .tools/timescaledb"
  rm -rf "$work"
  private_apt "$work" "$mirror" trixie
  (download_debs "$work") </dev/null >"$here/.tools/timescaledb.log" 2>&1 || {
    warn "TimescaleDB could not be fetched, see .tools/timescaledb.log"
    rm -rf "$work"
    return 1
  }
  unpack_debs "$work" && [ -n "$("$work/prefix/usr/lib/postgresql/17/bin/postgres" --version)" ] || {
    warn "TimescaleDB was fetched but does not run here"
    rm -rf "$work"
    return 1
  }
  server_folder "$timescaledb_folder" "$(database_owner)"
  rm -rf "${timescaledb_folder:?}/usr"
  mv "$work/prefix/usr" "$timescaledb_folder/usr"
  rm -rf "$work"
}

# unpack_debs WORK
unpack_debs() {
  local deb
  for deb in "$1"/debs/*.deb; do dpkg-deb -x "$deb" "$1/prefix" || return 1; done
  rm -rf "$1"/prefix/usr/share/{doc,man,locale,lintian} "$1/prefix/usr/lib/postgresql/17/lib/bitcode"
  wrap_binaries "$1/prefix/usr/lib/postgresql/17/bin"
}

# private_apt WORK MIRROR SUITE: a state of apt that knows nothing but that. Sets apt_options.
private_apt() {
  local apt=$1/apt
  mkdir -p "$apt"/{lists,cache/archives}/partial "$1"/{debs,prefix}
  : >"$apt/status"
  printf 'deb [signed-by=%s] %s %s main\n' "$debian_keyring" "$2" "$3" >"$apt/sources.list"
  apt_options=(-qq -o "Dir::Etc::SourceList=$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
    -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null -o "Dir::State=$apt"
    -o "Dir::State::Lists=$apt/lists" -o "Dir::State::status=$apt/status" -o "Dir::Cache=$apt/cache"
    -o APT::Sandbox::User= -o Acquire::Languages=none -o Acquire::Retries=3)
}

# download_debs WORK
download_debs() {
  cd "$1/debs" && apt-get "${apt_options[@]}" update && apt-get "${apt_options[@]}" download "${timescaledb_packages[@]}"
}

# Each program runs through the loader and libraries beside it. LD_LIBRARY_PATH would reach the host's programs too.
wrap_binaries() {
  local bin=$1 program
  mv "$bin" "$bin.real"
  mkdir "$bin"
  for program in "$bin.real"/*; do
    cat >"$bin/${program##*/}" <<'TEXT'
#!/bin/bash
bin=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
libraries=$(echo "${bin%/postgresql/*}"/*-linux-gnu*)
loader=$(echo "$libraries"/ld-linux*.so.*)
exec "$loader" --inhibit-cache --library-path "$libraries" --argv0 "$bin/${0##*/}" "$bin.real/${0##*/}" "$@"
TEXT
  done
  chmod 755 "$bin"/*
}

fetched_bin=$timescaledb_folder/usr/lib/postgresql/17/bin

# Newest PostgreSQL of the system's packages, one with TimescaleDB before one without.
system_bin() {
  local bin newest=
  for bin in $(printf '%s\n' /usr/lib/postgresql/*/bin | sort -t/ -k5 -n); do
    [ ! -x "$bin/postgres" ] || newest=$bin
  done
  for bin in $(printf '%s\n' /usr/lib/postgresql/*/bin | sort -t/ -k5 -n); do
    [ ! -x "$bin/postgres" ] || ! has_timescaledb "$bin" || newest=$bin
  done
  printf '%s' "$newest"
}

has_timescaledb() {
  local major=${1%/bin}
  [ -f "${1%/lib/postgresql/*}/share/postgresql/${major##*/}/extension/timescaledb.control" ]
}

# A package with TimescaleDB that this machine's apt knows, of Debian's or of Timescale's own naming.
packaged_timescaledb() {
  apt-cache search --names-only '^(postgresql-[0-9]+-timescaledb|timescaledb-2-postgresql-[0-9]+)$' 2>/dev/null |
    cut -d' ' -f1 | sort -V | tail -n 1
}

# Sets postgres_bin: the programs that the data was made with, else what was fetched, installed or can be.
find_postgres() {
  local made_with
  if [ -n "${POSTGRES_BIN_PATH-}" ]; then
    postgres_bin=$POSTGRES_BIN_PATH
    return
  fi
  made_with=$(cat "$native_database/data/PG_VERSION" 2>/dev/null) || made_with=
  if [ -z "$made_with" ] || [ "$made_with" = 17 ]; then
    if [ ! -x "$fetched_bin/postgres" ] && ! has_timescaledb "$(system_bin)"; then
      with_lock "$here/.tools/install.lock" fetch_once || true
    fi
    if [ -x "$fetched_bin/postgres" ]; then
      postgres_bin=$fetched_bin
      return
    fi
  fi
  if [ -n "$made_with" ]; then
    postgres_bin=/usr/lib/postgresql/$made_with/bin
    [ -x "$postgres_bin/postgres" ] || fail "$native_database was made by PostgreSQL $made_with, which is not installed"
    return
  fi
  has_timescaledb "$(system_bin)" || install_postgres
  postgres_bin=$(system_bin)
  has_timescaledb "$postgres_bin" || warn "TimescaleDB can't be had here: taking plain PostgreSQL"
}

fetch_once() { [ -x "$fetched_bin/postgres" ] || fetch_timescaledb; }

install_postgres() {
  local package
  command -v apt-get >/dev/null || fail "$neither_docker_nor_apt"
  package=$(packaged_timescaledb)
  if [ -n "$package" ]; then
    with_lock "$here/.tools/install.lock" apt_install "$package"
  elif [ -z "$(system_bin)" ]; then
    with_lock "$here/.tools/install.lock" apt_install postgresql
  fi
}

# What find_postgres could neither find nor fetch without root.
missing_package_database() {
  [ -z "${POSTGRES_BIN_PATH-}" ] && [ ! -x "$fetched_bin/postgres" ] && [ -z "$(system_bin)" ] || return 0
  [ -f "$debian_keyring" ] && [ -n "$(debian_mirror)" ] || printf 'postgresql\n'
}

database_owner() { owner_of "$native_database/data/PG_VERSION" postgres; }

# native_database_pid: the process of this checkout's own database, if it runs.
native_database_pid() {
  local pid
  pid=$(head -n 1 "$native_database/data/postmaster.pid" 2>/dev/null) || return 1
  [ -n "$pid" ] && [ "$(readlink "/proc/$pid/cwd")" = "$(readlink -f "$native_database/data")" ] && printf '%s' "$pid"
}

# create_cluster FOLDER OWNER
create_cluster() {
  local data=$1/data
  [ ! -f "$data/PG_VERSION" ] || return 0
  say "database: creating $data"
  rm -rf "$data"
  mkdir -m 700 "$data"
  chown "$2" "$data"
  # The password goes in by a pipe: it stands neither in a file nor on a command line.
  # shellcheck disable=SC2016 # expanded by the inner shell, whose pipe the owner may open
  (
    cd /
    as_owner "$2" env LC_ALL=C.UTF-8 bash -c '"$@" --pwfile=<(cat)' initdb "$(readlink -f "$postgres_bin")/initdb" \
      -D "$data" -U "$POSTGRES_USER" -A scram-sha-256 -E UTF8 --locale=C.UTF-8 --no-sync >/dev/null <<<"$POSTGRES_PASSWORD"
  ) || fail "initdb failed"
  printf "include 'blackbird.conf'\n" >>"$data/postgresql.conf"
}

# Loopback only, no socket file (its path may be too long), and what suits many small inserts on a small machine.
database_configuration() {
  cat <<TEXT
listen_addresses = '127.0.0.1'
port = $POSTGRES_PORT
unix_socket_directories = ''
cluster_name = 'blackbird'
blackbird.checkout = '${here//\'/\'\'}'
shared_buffers = 256MB
work_mem = 16MB
maintenance_work_mem = 128MB
max_wal_size = 4GB
checkpoint_timeout = 15min
max_worker_processes = 24
random_page_cost = 1.1
jit = off
timezone = 'UTC'
log_timezone = 'UTC'
TEXT
  if has_timescaledb "$postgres_bin"; then
    printf "shared_preload_libraries = 'timescaledb'\ntimescaledb.telemetry_level = off\n"
  fi
}

# clear_after_crash DATA: the last processes of a killed server end by themselves; a lock file that names a dead process
# which nobody has buried yet would keep PostgreSQL from starting.
clear_after_crash() {
  local tries=200 pid
  [ -f "$1/postmaster.pid" ] || return 0
  while [ -n "$(find /proc/[0-9]*/cwd -maxdepth 0 -lname "$1" 2>/dev/null)" ]; do
    [ "$((tries -= 1))" -gt 0 ] || fail "processes of a crashed database are still in $1"
    sleep 0.05
  done
  pid=$(head -n 1 "$1/postmaster.pid")
  [ ! -d "/proc/$pid" ] || running "$pid" || rm -f "$1/postmaster.pid"
}

native_database_start() {
  local owner folder log
  find_postgres
  owner=$(database_owner)
  server_folder "$native_database" "$owner"
  hide_from_tools "$PGDATA_PATH"
  folder=$(readlink -f "$native_database")
  log=$folder/server.log
  own_folder "$folder" "$owner"
  create_cluster "$folder" "$owner"
  clear_after_crash "$folder/data"
  database_configuration >"$folder/data/blackbird.conf"
  : >>"$log"
  chown "$owner" "$folder/data/blackbird.conf" "$log"
  say "database: starting PostgreSQL on port $POSTGRES_PORT, data in $native_database"
  as_owner_detached "$owner" "$log" clean_environment "$(readlink -f "$postgres_bin")/postgres" -D "$folder/data"
  answer=$(ask database --wait 60 --pid "$started_pid")
  answered_by_started database "$log"
}

native_database_stop() {
  local pid=$1
  # A fast shutdown: sessions are ended, everything committed is on disk.
  kill -INT "$pid" || fail "the database (process $pid) cannot be stopped: run as its user, or as root"
  wait_until_gone "$pid" 60 || fail "the database (process $pid) has not stopped after 60 s"
}
