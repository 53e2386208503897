#!/bin/bash
# Builds the control plane once: one binary of many names, under target/kube. Prints the folder of the binaries.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$(cd "$here/../.." && pwd)/target/kube
names="etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl"
if [ -n "${KUBEBUILDER_ASSETS:-}" ]; then
  for name in etcd kube-apiserver kubectl; do
    [ -x "$KUBEBUILDER_ASSETS/$name" ] || { echo "KUBEBUILDER_ASSETS=$KUBEBUILDER_ASSETS has no $name" >&2; exit 1; }
  done
  echo "$KUBEBUILDER_ASSETS"; exit
fi
want=$(cd "$here" && cat ./*.go go.mod go.sum build.sh | sha256sum)
mkdir -p "$out"
exec 9>"$out/.lock"; flock 9   # one build at a time
if [ "$(cat "$out/.built" 2>/dev/null)" != "$want" ] || [ ! -x "$out/kube" ]; then
  if ! command -v go >/dev/null; then
    cat >&2 <<'M'
The embedded control plane is built with Go, which is not on the PATH. Either
  - install Go 1.26 or newer, or
  - set KUBECONFIG to the kubeconfig of a cluster of your own (for `make demo`), or
  - set KUBEBUILDER_ASSETS to a folder with ready-made etcd, kube-apiserver and kubectl.
M
    exit 1
  fi
  echo "Building etcd and Kubernetes 1.37.2 into target/kube, once: about seven minutes." >&2
  v=k8s.io/component-base/version
  (cd "$here" && CGO_ENABLED=0 go build -trimpath \
    -ldflags="-s -w -X $v.gitVersion=v1.37.2 -X $v.gitMajor=1 -X $v.gitMinor=37" -o "$out/kube" .) >&2 &
  build=$!; start=$SECONDS
  while kill -0 $build 2>/dev/null; do
    sleep 1
    [ $(((SECONDS - start) % 30)) -ne 29 ] || echo "  … $((SECONDS - start + 1)) s" >&2
  done
  wait $build
  for name in $names; do ln -sf kube "$out/$name"; done
  echo "$want" >"$out/.built"
  echo "Built in $((SECONDS - start)) s." >&2
fi
echo "$out"
