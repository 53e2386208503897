#!/bin/sh
# Counts an order exactly once, however often the answer is lost: the same key, the same result.
set -eu
url=${QUORATE_URL:-http://localhost:8082}

key=$(cat /proc/sys/kernel/random/uuid)
curl -sS --fail-with-body --retry 5 --retry-connrefused -H "Idempotency-Key: $key" --json '{"by": 1}' \
    "$url/v1/counters/orders/add"
echo
curl -sS --fail-with-body "$url/v1/counters/orders"
