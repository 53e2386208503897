#!/bin/bash
# Ends what `make demo KEEP=1` left running, by the pids it noted, and removes its files.
set -euo pipefail
target=$(cd "$(dirname "$0")/.." && pwd)/target
shopt -s nullglob
for kept in "$target"/clusters/kept-*; do
  while read -r pid; do
    # The number may be another process's by now.
    case "$(readlink "/proc/$pid/exe" 2>/dev/null)" in "$target"/*) kill -KILL "$pid" ;; esac
  done <"$kept/pids"
  rm -rf "$kept"
  echo "ended and removed ${kept##*/}"
done
