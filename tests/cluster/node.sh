#!/bin/bash
# A node's machine within this one: namespaces of its own for processes, mounts and the network. The kernel takes all of it
# back (pods, mounts, addresses, rules) when the first process in them ends, however that comes about.
#
#   node.sh check          installs what is missing, and prints the folder of the network plugins; or why there is no node
#   node.sh init CGROUP    the first process in the namespaces, which ends with them
#   node.sh connect PID    joins the network of that process with this one's, and prints a number N: this side has
#                          198.18.N.1, the node 198.18.N.2, its pods 198.19.N.0/24 (RFC 2544: for tests, and nobody's)
set -euo pipefail

plugins() {
  for folder in /usr/lib/cni /opt/cni/bin /usr/libexec/cni; do
    [ ! -x $folder/bridge ] || { echo $folder; return; }
  done
}

static() { # PROGRAM
  local path
  path=$(command -v "$1") && ! LC_ALL=C readelf -l "$path" | grep -q INTERP
}

no() { # REASON…
  echo "$*"
  exit 1
}

install() { # PACKAGE…
  command -v apt-get >/dev/null || no "missing (names as in Debian): $*"
  echo "Installing for the node of the tests: $*" >&2
  # Nothing is removed: another containerd, say, stays.
  local get="env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=120 --no-install-recommends --no-remove"
  local log; log=$(mktemp)
  $get install "$@" >"$log" 2>&1 || { $get update && $get install "$@"; } >"$log" 2>&1 ||
    no "apt-get cannot install $*: $(tail -1 "$log")"
  rm "$log"
}

check() {
  [ "$(id -u)" = 0 ] || no "a node needs root, for containers and networks"
  unshare --mount --net --pid --fork --mount-proc true 2>/dev/null || no "this machine allows no namespaces"
  [ -w /sys/fs/cgroup ] || no "cgroups cannot be written here"
  local missing=()
  need() { command -v "$1" >/dev/null || missing+=("$2"); }
  need containerd containerd
  need runc runc
  need iptables iptables
  need ip iproute2
  # Both go into images that have nothing else: the first process of the machine and of each pod, and the applications.
  static catatonit || missing+=(catatonit)
  static busybox || missing+=(busybox-static)
  [ -n "$(plugins)" ] || missing+=(containernetworking-plugins)
  [ ${#missing[@]} = 0 ] || install "${missing[@]}"
  plugins
}

init() { # CGROUP
  # kubelet wants shared mounts; the namespace itself is nobody else's.
  mount --make-rshared /
  # All that the node writes.
  for folder in /run /var/log /var/lib/cni /var/lib/containerd /var/lib/kubelet; do
    mkdir -p $folder
    mount -t tmpfs -o mode=755 tmpfs $folder
  done
  # kubelet changes these for the whole machine, unless it finds them so.
  for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
    kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
    mkdir -p "/run/sys/$(dirname $setting)"
    echo "${setting#*=}" >"/run/sys/${setting%=*}"
    mount --bind "/run/sys/${setting%=*}" "/proc/sys/${setting%=*}"
  done
  # kubelet ends what it does not know in its cgroup, so each has one of its own.
  if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
    # kubelet says which it misses, if one cannot be had.
    for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
      echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control || true
    done
    mkdir "/sys/fs/cgroup/$1"
  else
    for controller in /sys/fs/cgroup/*/; do mkdir "$controller$1"; done
  fi
  exec catatonit -P
}

connect() { # PID
  local n
  for n in {1..250}; do
    # Whoever makes the link has the number.
    if ip link add "qrt$n" type veth peer name eth0 netns "$1" 2>/dev/null; then
      local node="nsenter --net --target $1 ip"
      ip address add "198.18.$n.1/24" dev "qrt$n"
      ip link set "qrt$n" up
      $node link set lo up
      $node address add "198.18.$n.2/24" dev eth0
      $node link set eth0 up
      $node route add default via "198.18.$n.1"
      ip route add "198.19.$n.0/24" via "198.18.$n.2"
      echo "$n"
      return
    fi
  done
  no "no link can be made: is the kernel's veth there?"
}

"$@"
