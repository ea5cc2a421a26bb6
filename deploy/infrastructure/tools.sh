# shellcheck shell=bash
# uv, the Python environment and git's filter for the lock file.

# Sets python to an interpreter itself: starting it through a shim costs more than what is asked of it.
find_base_python() {
  python=$(python3 -c 'import sys; print(getattr(sys, "_base_executable", sys.executable))' 2>/dev/null) ||
    fail "python3 is missing: Blackbird needs Python 3.11 or later"
}

# Sets uv to the machine's own uv, or to one brought into .tools. The system's and the user's Python stay as they are.
find_uv() {
  uv=$here/.tools/uv/bin/uv
  if uv_is_usable uv; then
    uv=uv
  elif ! uv_is_usable "$uv"; then
    check_python_packages
    say "bringing uv into .tools/uv"
    bring_uv >"$here/.tools/uv.log" 2>&1 || {
      tail -n 5 "$here/.tools/uv.log" >&2
      fail "uv could not be installed (python3 needs venv or pip for that)"
    }
  fi
}

# uv_is_usable PROGRAM: it runs, and knows what pyproject.toml and uv.lock are written in.
uv_is_usable() {
  local least found
  least=$(sed -n 's/^required-version = ">=\(.*\)"$/\1/p' "$here/pyproject.toml")
  found=$("$1" --version 2>/dev/null) && found=${found#uv } && found=${found%% *} &&
    [ "$(printf '%s\n' "$least" "$found" | sort -V | head -n 1)" = "$least" ]
}

# Without venv and pip uv cannot be brought: say so with all that this machine lacks, before anything is touched.
check_python_packages() {
  local packages=(python3-venv)
  if "$python" -c 'import ensurepip' 2>/dev/null || "$python" -m pip --version >/dev/null 2>&1 || may_install; then
    return
  fi
  [ -x "$rabbitmq_bin/rabbitmq-server" ] || docker version >/dev/null 2>&1 || packages+=(rabbitmq-server)
  ask_for_packages "${packages[@]}"
}

bring_uv() {
  # Debian without python3-venv: a target folder needs no virtual environment, and with neither apt has it.
  uv_in_environment || uv_in_folder || { command -v apt-get && apt_install python3-venv && uv_in_environment; }
}

uv_in_environment() {
  rm -rf "$here/.tools/uv"
  "$python" -m venv "$here/.tools/uv" && "$here/.tools/uv/bin/python" -m pip install -q --disable-pip-version-check uv
}

uv_in_folder() {
  rm -rf "$here/.tools/uv"
  "$python" -m pip install -q --disable-pip-version-check --target "$here/.tools/uv" uv
}

sync_environment() {
  local choice=()
  # A new environment takes the Python that runs this; a name such as python3.13 may be an empty shim.
  if [ ! -x "$here/.venv/bin/python" ] && "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    choice=(--python "$python")
  fi
  # The second try is for a network whose certificates only the system knows.
  uv_sync ${choice[@]+"${choice[@]}"} || UV_SYSTEM_CERTS=true UV_NATIVE_TLS=true uv_sync ${choice[@]+"${choice[@]}"} || {
    cat "$here/.tools/uv.log" >&2
    fail "uv sync failed (Python 3.11 or later is needed)"
  }
}

# Compiled once here, the packages start in half the time: some machines keep Python from doing it by itself.
uv_sync() {
  (cd "$here" && UV_PYTHON_DOWNLOADS=never "$uv" sync --quiet --compile-bytecode "$@" >"$here/.tools/uv.log" 2>&1)
}

# Keeps the addresses of one machine's package index out of the committed lock file.
install_lockfile_filter() {
  local filter="python3 deploy/lockfile_filter.py"
  [ -f "$here/deploy/lockfile_filter.py" ] || return 0
  [ "$(git -C "$here" rev-parse --show-toplevel 2>/dev/null)" = "$here" ] || return 0
  [ "$(git -C "$here" config --get filter.uvlock.clean)" = "$filter" ] || git -C "$here" config filter.uvlock.clean "$filter"
  # git compares sizes before it asks the filter: tell it once that the completed copy is no change.
  ! git -C "$here" diff --quiet -- uv.lock 2>/dev/null || git -C "$here" update-index -- uv.lock 2>/dev/null || true
}

bring_tools() {
  # The environment's own Python cannot make it anew.
  find_base_python
  with_lock "$here/.tools/install.lock" bring_tools_once
}

bring_tools_once() {
  find_uv
  sync_environment
  install_lockfile_filter
  say "python: $here/.venv, uv: $(command -v "$uv")"
}
