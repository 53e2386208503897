#!/bin/bash
# Builds operator and sidecar as static, stripped programs into target/images/programs. Prints the folder.
# The libraries of others are those of every other build; only our own crates are compiled once more. PROFILE=release for
# a release.
set -euo pipefail
cd "$(dirname "$0")/../.."
programs="quorate-operator quorate-sidecar"
out=$PWD/target/images/programs
mkdir -p "$out"
[ -e "$(cc -print-file-name=libc.a)" ] || { echo "missing: libc.a, for static programs (Debian: libc6-dev, Fedora: glibc-static)" >&2; exit 1; }
# Within `cargo test`, these would tell cargo that its libraries are out of date.
for name in "${!CARGO_MANIFEST@}" "${!CARGO_PKG@}"; do unset "$name"; done
export RUSTC_WORKSPACE_WRAPPER=$PWD/tests/cluster/static-rustc.sh

for attempt in 1 2 3; do
  # Of the whole workspace, so that features of libraries are as in its other builds.
  built=$(cargo build --quiet --workspace --bin quorate-operator --bin quorate-sidecar --profile "${PROFILE:-dev}" \
    --message-format=json-render-diagnostics | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p')
  complete=yes
  for program in $programs; do
    cp "$(grep "/$program\$" <<<"$built")" "$out/$program.new"
    # One that asks for a loader is another cargo's, which was put there meanwhile.
    if LC_ALL=C readelf -l "$out/$program.new" | grep -q INTERP; then complete=no; fi
  done
  [ $complete = no ] || break
done
[ $complete = yes ] || { echo "cargo built no static programs" >&2; exit 1; }
for program in $programs; do mv "$out/$program.new" "$out/$program"; done
echo "$out"
