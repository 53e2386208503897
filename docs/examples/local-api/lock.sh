#!/bin/sh
# Runs a job under the lock "nightly": held for as long as curl keeps the response open, given back at once when it ends,
# whichever way.
set -eu
url=${QUORATE_URL:-http://localhost:8082}

folder=$(mktemp -d)
mkfifo "$folder/lines"
curl -sSN --json '{"wait": 60}' "$url/v1/locks/nightly/hold" >"$folder/lines" &
holder=$!
trap 'kill "$holder" 2>/dev/null; rm -r "$folder"' EXIT
exec 3<"$folder/lines"

read -r granted <&3 || true # a problem has no line end
case $granted in
*'"event":"granted"'*) ;;
*) echo "no lock: $granted" >&2 && exit 1 ;;
esac
token=$(echo "$granted" | sed 's/.*"token":\([0-9]*\).*/\1/')

echo "working under token $token"
