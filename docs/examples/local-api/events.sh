#!/bin/sh
# Prints each config as it is now, and each change. EVENTS=1 ends after the first.
set -eu
url=${QUORATE_URL:-http://localhost:8082}

curl -sSN "$url/v1/events" | while read -r line; do
    case $line in
    data:*) echo "${line#data: }" ;;
    *) continue ;;
    esac
    [ "${EVENTS:-}" != 1 ] || break
done
