# shellcheck shell=bash
# Prometheus without Docker: Debian's program with a configuration, a port and a folder of its own.

# The package wants a Prometheus of its own on all interfaces after each boot.
disable_packaged_prometheus() {
  {
    ! command -v systemctl >/dev/null || as_root systemctl disable prometheus || true
    ! command -v update-rc.d >/dev/null || as_root update-rc.d prometheus disable || true
    as_root rm -f /etc/systemd/system/*.wants/prometheus.service
  } >>"$here/.tools/apt.log" 2>&1
}
