# shellcheck shell=bash
# RabbitMQ of another Debian release in .tools/rabbitmq-RELEASE, with its Erlang and every library under them: no root,
# nothing of the host is changed. Also: which release may go on with the data of which.

# suite_of RELEASE: the Debian release that has it.
suite_of() {
  case $1 in
    3.10) printf bookworm ;;
    4.0) printf trixie ;;
    4.3) printf forky ;;
    *) return 1 ;;
  esac
}

# Of what the package depends on: what its programs load. Not systemd, Python, adduser and the like.
rabbitmq_packages='rabbitmq-server|erlang-.*'
rabbitmq_packages+='|lib(c6|gcc-s1|stdc[+][+]6|tinfo6|ncursesw6|ssl3|ssl3t64|zstd1|systemd0|cap2|lz4-1|lzma5|gcrypt20|gpg-error0|sctp1|mimalloc.*)|zlib1g'

# Sets rabbitmq_bin and, where it is not the system's, erlang_bin.
find_rabbitmq() {
  local folder real
  [ "$RABBITMQ_RELEASE" != installed ] || return 0
  folder=$here/.tools/rabbitmq-$RABBITMQ_RELEASE
  with_lock "$here/.tools/install.lock" fetch_rabbitmq_once "$folder"
  real=$(readlink -f "$folder")
  rabbitmq_bin=$real/usr/lib/rabbitmq/bin
  erlang_bin=$real/usr/lib/erlang/bin
}

# fetch_rabbitmq_once FOLDER: unless it is complete, and where it was made: paths of the folder are written into it.
fetch_rabbitmq_once() {
  [ "$(cat "$1/complete" 2>/dev/null)" = "$(readlink -m "$1")" ] || fetch_rabbitmq "$1"
}

# fetch_rabbitmq FOLDER
fetch_rabbitmq() {
  local mirror work=$1.part log=$1.log suite
  suite=$(suite_of "$RABBITMQ_RELEASE")
  command -v apt-get >/dev/null && [ -f "$debian_keyring" ] && mirror=$(debian_mirror) && [ -n "$mirror" ] ||
    fail "RabbitMQ $RABBITMQ_RELEASE comes from Debian's archive, which apt does not know on this machine"
  say "broker: fetching RabbitMQ $RABBITMQ_RELEASE into .tools/${1##*/}"
  rm -rf "$work"
  private_apt "$work" "$mirror" "$suite"
  (download_rabbitmq "$work") </dev/null >"$log" 2>&1 && unpack_rabbitmq "$work" >>"$log" 2>&1 || {
    rm -rf "$work"
    fail "RabbitMQ $RABBITMQ_RELEASE could not be fetched, see .tools/${log##*/}"
  }
  server_folder "$1" "$(broker_owner)"
  rm -rf "${1:?}/usr"
  mv "$work/prefix/usr" "$1/usr"
  rm -rf "$work"
  wrap_erlang "$(readlink -f "$1")/usr"
  "$1/usr/lib/erlang/bin/erl" -noshell -eval 'crypto:hash(sha256, <<>>), halt().' >>"$log" 2>&1 ||
    fail "RabbitMQ $RABBITMQ_RELEASE was fetched but does not run here, see .tools/${log##*/}"
  readlink -m "$1" >"$1/complete"
}

# download_rabbitmq WORK
download_rabbitmq() {
  local needed
  cd "$1/debs" && apt-get "${apt_options[@]}" update
  needed=$(apt-get "${apt_options[@]}" -s install --no-install-recommends rabbitmq-server |
    sed -n 's/^Inst \([^ ]*\) .*/\1/p' | grep -xE "$rabbitmq_packages")
  # shellcheck disable=SC2086 # names of packages
  apt-get "${apt_options[@]}" download $needed
}

# unpack_rabbitmq WORK: all into usr, also what a release that keeps /lib apart has there.
unpack_rabbitmq() {
  local deb libraries
  for deb in "$1"/debs/*.deb; do dpkg-deb -x "$deb" "$1/prefix" || return 1; done
  libraries=$(echo "$1"/prefix/usr/lib/*-linux-gnu*)
  [ ! -d "$1/prefix/lib" ] || [ -L "$1/prefix/lib" ] || cp -a "$1/prefix/lib/${libraries##*/}/." "$libraries/"
  rm -rf "$1"/prefix/usr/share/{doc,man,locale,lintian}
}

# wrap_erlang USR: each program of Erlang runs through the loader and libraries beside it, see wrap_binaries.
wrap_erlang() {
  local erlang=$1/lib/erlang libraries loader program
  libraries=$(echo "$1"/lib/*-linux-gnu*)
  loader=$(echo "$libraries"/ld-linux*.so.*)
  for program in "$erlang"/erts-*/bin/* "$erlang"/bin/* "$erlang"/lib/*/priv/bin/* "$erlang"/lib/*/bin/*; do
    [ -f "$program" ] && [ ! -L "$program" ] || continue
    if [ "$(head -c 4 "$program" | tail -c 3)" = ELF ]; then
      mv "$program" "$program.real"
      printf '#!/bin/sh\nexec "%s" --inhibit-cache --library-path "%s" --argv0 "%s" "%s.real" "$@"\n' \
        "$loader" "$libraries" "$program" "$program" >"$program"
      chmod 755 "$program"
    elif head -n 1 "$program" | grep -q '^#!/bin/sh'; then
      # Debian's scripts name the folder that they are installed in.
      sed -i "s#=/usr/lib/erlang#=$erlang#" "$program"
    fi
  done
}

# rabbitmq_version: of the programs in rabbitmq_bin, as 4.0.
rabbitmq_version() {
  local found
  found=$(echo "${rabbitmq_bin%/bin}"/lib/rabbitmq_server-*)
  found=${found##*-}
  printf '%s' "${found%.*}"
}

# version_of_data FOLDER: the release that wrote it last, empty where there is no data.
version_of_data() {
  [ -n "$(ls -A "$1/mnesia" 2>/dev/null)" ] || return 0
  if [ -s "$1/release" ]; then
    cat "$1/release"
  elif grep -qs message_containers "$1/feature_flags"; then
    printf '3.13'
  else
    printf '3.10'
  fi
}

# can_go_on DATA VERSION: whether RabbitMQ VERSION can be started on data of release DATA.
# https://www.rabbitmq.com/docs/upgrade: back never; to 4 from 3.13 alone; to 4.3 from 4.2.
can_go_on() {
  at_least "$2" "$1" || return 1
  case $1 in 3.*) at_least "$1" 3.13 || ! at_least "$2" 4.0 || return 1 ;; esac
  at_least "$1" 4.2 || ! at_least "$2" 4.3
}

# at_least VERSION OTHER
at_least() { [ "$(printf '%s\n' "$1" "$2" | sort -V | head -n 1)" = "$2" ]; }

# check_release FOLDER: that the release which is to be started can go on with the data.
check_release() {
  local data version
  data=$(version_of_data "$1") version=$(rabbitmq_version)
  [ -n "$data" ] && ! can_go_on "$data" "$version" || return 0
  fail "the broker's data in $1 is of RabbitMQ $data, which RabbitMQ $version cannot start on. Either go on with RabbitMQ $data \
(RABBITMQ_RELEASE=$data ./setup.sh), or start empty: with RabbitMQ $data running note GET /subscriptions, end the collector, let the \
queue storage drain, end the other services, ./setup.sh stop broker, move $1 away, ./setup.sh, and subscribe again"
}
