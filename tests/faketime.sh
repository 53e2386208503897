#!/bin/bash
# Installs libfaketime, if it is missing, and prints its path; or why it cannot be had.
set -euo pipefail

find_it() {
  local path
  for path in /usr/lib/*/faketime/libfaketime.so.1 /usr/lib/faketime/libfaketime.so.1; do
    [ ! -e "$path" ] || { echo "$path"; exit; }
  done
}

no() { # REASON…
  echo "$*"
  exit 1
}

find_it
[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || no "libfaketime is missing (Debian: apt-get install faketime)"
echo "Installing for the tests with wrong clocks: faketime" >&2
get="env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=120 --no-install-recommends --no-remove"
log=$(mktemp)
$get install faketime >"$log" 2>&1 || { $get update && $get install faketime; } >"$log" 2>&1 ||
  no "apt-get cannot install faketime: $(tail -1 "$log")"
rm "$log"
find_it
no "Debian's package faketime has no libfaketime.so.1 where it is looked for"
