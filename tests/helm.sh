#!/bin/bash
# Builds Helm once, from its Go module, into target/tools/bin. Prints its path. HELM may name a ready-made one.
set -euo pipefail
[ -z "${HELM:-}" ] || { echo "$HELM"; exit; }
version=v4.3.1
out=$(cd "$(dirname "$0")/.." && pwd)/target/tools/bin
mkdir -p "$out"
exec 9>"$out/.helm.lock"; flock 9 # one build at a time
if [ "$(cat "$out/.helm" 2>/dev/null)" != "$version" ] || [ ! -x "$out/helm" ]; then
  command -v go >/dev/null || {
    echo "Helm is built with Go, which is not on the PATH: install Go 1.26 or newer, or set HELM to Helm 4's program" >&2
    exit 1
  }
  echo "Building Helm $version into target/tools, once: about two minutes" >&2
  CGO_ENABLED=0 GOBIN="$out" go install -trimpath \
    -ldflags="-s -w -X helm.sh/helm/v4/internal/version.version=$version" "helm.sh/helm/v4/cmd/helm@$version" >&2
  echo "$version" >"$out/.helm"
fi
echo "$out/helm"
