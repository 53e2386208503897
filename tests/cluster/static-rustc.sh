#!/bin/sh
# rustc for static.sh: our programs are linked statically and stripped; all else is as ever.
case " $* " in *" --crate-name quorate_"*" --crate-type bin "*) set -- "$@" -C target-feature=+crt-static -C strip=symbols ;; esac
exec "$@"
