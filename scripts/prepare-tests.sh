#!/usr/bin/env bash
# Installs what the tests need and says clearly what is missing; with --full also what only the heavy cases need. Safe
# to run again.
set -euo pipefail

say() { printf 'prepare: %s\n' "$*"; }
need() { say "$1" >&2; exit 1; }
full=no
[ "${1:-}" = --full ] && full=yes

command -v cargo >/dev/null || need "no Rust toolchain: install rustup and the stable toolchain first"
command -v cc >/dev/null || need "no C compiler: apt-get install build-essential"
[ "$(id -u)" = 0 ] || need "the tests make real sandboxes, which needs root: run 'sudo make test'"
[ -e /proc/self/ns/user ] || need "this kernel has no user namespaces, which sandboxes need"

missing=()
for pair in mmdebstrap:mmdebstrap uidmap:newuidmap python3-venv:/usr/lib/python3*/venv zstd:zstd git:git npm:npm; do
  name=${pair%%:*} probe=${pair#*:}
  case $probe in
    /*) compgen -G "$probe" >/dev/null || missing+=("$name") ;;
    *) command -v "$probe" >/dev/null || missing+=("$name") ;;
  esac
done
if [ ${#missing[@]} -gt 0 ]; then
  command -v apt-get >/dev/null || need "missing: ${missing[*]} (install them with this system's package manager)"
  say "installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
# A container engine for SAM's own API. Where there is none, that part of the tests says so and is skipped.
if [ $full = yes ] && ! { command -v dockerd && command -v debootstrap; } >/dev/null; then
  if command -v apt-get >/dev/null; then
    say "installing docker.io debootstrap"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends docker.io debootstrap iptables >/dev/null ||
      say "no container engine could be installed: sam local will be skipped"
  fi
fi
say "ready"
