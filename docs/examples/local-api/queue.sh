#!/bin/sh
# Sends a message, receives one, works on it, and acknowledges it.
set -eu
queue=${QUORATE_URL:-http://localhost:8082}/v1/queues/mails

# Under a name: sent again when the answer was lost, it is in the queue once.
curl -sS --fail-with-body --retry 5 --json '{"payload": "to: all", "name": "order-7"}' "$queue/messages"
echo
received=$(curl -sS --fail-with-body --json '{"wait": 30, "visibility": 60}' "$queue/receive")
receipt=$(echo "$received" | sed -n 's/.*"receipt":"\([^"]*\)".*/\1/p')
[ -n "$receipt" ] || exit 0
echo "working on $received"
curl -sS --fail-with-body -X POST "$queue/$receipt/ack"
