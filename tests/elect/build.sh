#!/bin/bash
# Builds the candidate of client-go's leader election once, into target/tools/bin. Prints its path.
set -euo pipefail
cd "$(dirname "$0")"
out=$(cd ../.. && pwd)/target/tools/bin
mkdir -p "$out"
exec 9>"$out/.elect.lock"; flock 9 # one build at a time
want=$(cat ./*.go go.mod go.sum build.sh | sha256sum)
if [ "$(cat "$out/.elect" 2>/dev/null)" != "$want" ] || [ ! -x "$out/elect" ]; then
  command -v go >/dev/null || {
    echo "client-go's candidate is built with Go, which is not on the PATH: install Go 1.26 or newer" >&2
    exit 1
  }
  echo "Building client-go's leader election into target/tools, once: about a minute" >&2
  CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags="-s -w" -o "$out/elect" . >&2
  echo "$want" >"$out/.elect"
fi
echo "$out/elect"
