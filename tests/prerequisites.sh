#!/bin/bash
# Says what is missing, and how to get it, before anything is built. Its arguments are the goals of make.
set -euo pipefail
missing=0
need() { # COMMAND WHAT-FOR
  command -v "$1" >/dev/null || { echo "missing: $1, $2" >&2; missing=1; }
}
need cargo "to build Quorate: install Rust with rustup; rust-toolchain.toml names the version"
need cc "the linker for Rust: install gcc or clang (Debian: apt-get install gcc libc6-dev)"
need setpriv "so that what is started ends with its starter (Debian: apt-get install util-linux)"
[ -n "${KUBECONFIG:-}${KUBEBUILDER_ASSETS:-}" ] || need go "to build the embedded control plane: install Go 1.26,
  or set KUBECONFIG (make demo on a cluster of your own) or KUBEBUILDER_ASSETS (ready-made etcd, kube-apiserver, kubectl)"
# It is built with Go, too.
case " $* " in
  *" test "* | *" test-node "* | *" chart-check "* | *" bench "*)
    root=$(cd "$(dirname "$0")/.." && pwd)
    [ -n "${HELM:-}" ] || [ -x "$root/target/tools/bin/helm" ] ||
      need go "to build Helm, for the chart: install Go 1.26, or set HELM to Helm 4's program" ;;
esac
exit $missing
