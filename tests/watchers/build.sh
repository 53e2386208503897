#!/bin/bash
# Makes the files of the watchers' images, once, under target/watchers: viper by Go, watchdog from PyPI with Debian's
# Python, nginx from Debian. Prints the folder; or why this machine cannot make them.
set -euo pipefail
cd "$(dirname "$0")"
out=$(cd ../.. && pwd)/target/watchers
mkdir -p "$out"
exec 9>"$out/.lock"; flock 9 # one build at a time
want=$(find . -type f | LC_ALL=C sort | xargs sha256sum | sha256sum)
[ "$(cat "$out/.built" 2>/dev/null)" != "$want" ] || { echo "$out"; exit; }

no() { # REASON…
  echo "$*"
  exit 1
}

apt() { # ARGUMENT… of apt-get; where its lists are missing or old, they are fetched
  local get="env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=120" log="$out/apt.log"
  $get "$@" >"$log" 2>&1 || { $get update && $get "$@"; } >"$log" 2>&1 || no "apt-get cannot $*: $(tail -1 "$log")"
}

debian() { # FOLDER PACKAGE: the package with all that it needs, whatever is installed on this machine
  local debs=$out/debs/$2 package
  mkdir -p "$debs/partial" "$1"/usr/{bin,sbin,lib,lib64}
  : >"$debs/nothing"
  apt -o Dir::State::status="$debs/nothing" -o Dir::Cache::archives="$debs" -o Dir::Cache::pkgcache= \
    -o Dir::Cache::srcpkgcache= -o APT::Sandbox::User=root --no-install-recommends --download-only install "$2"
  for folder in bin sbin lib lib64; do ln -s usr/$folder "$1/$folder"; done
  for package in "$debs"/*.deb; do
    dpkg-deb --fsys-tarfile "$package" | tar -x --keep-directory-symlink -C "$1"
  done
}

command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || no "the images of watchers are made of Debian's packages, and there is no apt-get"
echo "Making the images of viper, watchdog and nginx in target/watchers, once: half a minute" >&2
rm -rf "$out"/{.built,viper,watchdog,nginx,debs}

(cd viper && CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags="-s -w" -o "$out/viper/viper" .) >&2

debian "$out/watchdog" python3
if ! python3 -m pip --version >/dev/null 2>&1; then
  echo "Installing for the images of watchers: python3-pip" >&2
  apt --no-install-recommends --no-remove install python3-pip
fi
PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --no-compile --no-deps --only-binary :all: --require-hashes \
  --target "$out/watchdog/app" --requirement watchdog/requirements.txt >&2
cp watchdog/main.py "$out/watchdog/app"

debian "$out/nginx" nginx

rm -rf "$out/debs"
echo "$want" >"$out/.built"
echo "$out"
