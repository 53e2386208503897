#!/bin/bash
# Ends what `make demo KEEP=1` left running, by the pids it noted, and removes its files.
set -euo pipefail
target=$(cd "$(dirname "$0")/.." && pwd)/target
[ -f "$target/demo.pids" ] || { echo "no demo was left running"; exit; }
while read -r pid program; do
  # The number may be another process's by now. A program built anew since then shows as "PROGRAM (deleted)".
  case "$(readlink "/proc/$pid/exe" 2>/dev/null)" in "$program" | "$program (deleted)") kill -KILL "$pid" ;; esac
done <"$target/demo.pids"
rm -rf "$target"/clusters/kept-* "$target/demo.pids"
echo "ended and removed"
