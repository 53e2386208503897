#!/bin/bash
# Writes the one-file install manifest, made from the chart, to standard output. What Helm alone knows about (hooks, its own
# labels) is left out. More arguments are those of `helm template`, such as --set operator.namespaces='{shop}'.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
helm=$("$root/tests/helm.sh")
cat <<'M'
# Quorate, for `kubectl apply -f`. Made from the chart, whose values.yaml says what can be chosen.
apiVersion: v1
kind: Namespace
metadata:
  name: quorate-system
  labels:
    # What runs here needs no more.
    pod-security.kubernetes.io/enforce: restricted
M
"$helm" template quorate "$root/charts/quorate" --namespace quorate-system --no-hooks --set crds.keep=false "$@" |
  grep -vE '^ *(app\.kubernetes\.io/managed-by: Helm|helm\.sh/chart: .*)$'
