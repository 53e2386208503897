#!/bin/sh
# Reads a file of config "web": as it is decided now, as it was within the last minute, and as it is on disk.
set -eu
file=${QUORATE_URL:-http://localhost:8082}/v1/configs/web/files/app.yaml

# Refused with 503 when it cannot be known.
curl -sS --fail-with-body "$file?consistency=strong"
curl -sS --fail-with-body "$file?consistency=bounded&maxAge=60"
# Always there.
curl -sS --fail-with-body "$file"

# Nothing is sent again that is known already.
tag=$(curl -sS -o /dev/null -w '%header{etag}' "$file")
curl -sS -o /dev/null -w '%{http_code}\n' -H "If-None-Match: $tag" "$file"
