#!/bin/bash
# Builds operator and sidecar as static, stripped programs into target/images/programs. Prints the folder.
# They share all libraries with the other builds: only the last step, linking, is another one. PROFILE=release for a release.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=$PWD/target/images/programs
mkdir -p "$out"
[ -e "$(cc -print-file-name=libc.a)" ] || { echo "missing: libc.a, for static programs (Debian: libc6-dev, Fedora: glibc-static)" >&2; exit 1; }
# Within `cargo test`, these would tell cargo that its libraries are out of date.
for name in "${!CARGO_MANIFEST@}" "${!CARGO_PKG@}"; do unset "$name"; done

for program in quorate-operator quorate-sidecar; do
  for attempt in 1 2 3; do
    built=$(cargo rustc --quiet --profile "${PROFILE:-dev}" --message-format=json-render-diagnostics \
      -p $program --bin $program -- -C target-feature=+crt-static -C strip=symbols)
    cp "$(sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' <<<"$built")" "$out/$program.new"
    # One that asks for a loader is another cargo's, which was put there meanwhile.
    LC_ALL=C readelf -l "$out/$program.new" | grep -q INTERP || break
    [ $attempt != 3 ] || { echo "$program: cargo built none that is static" >&2; exit 1; }
  done
  mv "$out/$program.new" "$out/$program"
done
echo "$out"
