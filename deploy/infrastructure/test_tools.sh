#!/usr/bin/env bash
# Brings what only tests need: a browser for the page, Prometheus for the metrics and their dashboard, and what checks
# image, compose file and chart. None is required: without them the tests that want them are skipped, with the reason.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
# shellcheck source=deploy/infrastructure/settings.sh
. "$here/deploy/infrastructure/settings.sh"
# shellcheck source=deploy/infrastructure/machine.sh
. "$here/deploy/infrastructure/machine.sh"
# shellcheck source=deploy/infrastructure/metrics.sh
. "$here/deploy/infrastructure/metrics.sh"
# shellcheck source=deploy/infrastructure/tools.sh
. "$here/deploy/infrastructure/tools.sh"

# An environment of its own: setup.sh would take these out of .venv again.
find_uv
UV_PROJECT_ENVIRONMENT=$here/.tools/deployment uv_sync --only-group deployment ||
  UV_PROJECT_ENVIRONMENT=$here/.tools/deployment UV_SYSTEM_CERTS=true UV_NATIVE_TLS=true uv_sync --only-group deployment ||
  say "the tests of image, compose file and chart are skipped: uv could not bring what they need, see .tools/uv.log"

missing=()
command -v chromium >/dev/null || missing+=(chromium fonts-inter)
command -v prometheus >/dev/null || missing+=(prometheus)
[ ${#missing[@]} -gt 0 ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  say "the tests of page and metrics are skipped: ${missing[*]} cannot be installed without root and apt"
  exit 0
fi
mkdir -p "$here/.tools"
(apt_install "${missing[@]}") || say "the tests of page and metrics are skipped: ${missing[*]} could not be installed"
disable_packaged_prometheus
