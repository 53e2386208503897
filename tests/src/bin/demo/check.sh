#!/bin/sh
# What the application of a pod makes of new files: `check.sh VERSION`. It reads formats up to its
# version; and of all pods only one can have the disk to itself: who comes second refuses.
file=$QUORATE_STAGED/app.yaml
[ "$(sed -n 's/^format: //p' "$file")" -le "$1" ] || exit 1
if grep -qx 'disk: exclusive' "$file"; then
  mkdir "$QUORATE_STAGED/../../../disk-is-taken" || exit 2
fi
