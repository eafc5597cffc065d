#!/usr/bin/env bash
# Installs what tests need of npm and PyPI, each in a folder of its own, and prints the folder of all. Safe to run again,
# also at the same time: when nothing changed it only prints.
# Usage: test-tools.sh NAME... with node, vendors, mcp-1, mcp-2 as names.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
tools=${PVM_TEST_TOOLS:-${CARGO_TARGET_DIR:-$(dirname "$here")/target}/test-tools}

need() { printf 'test-tools: %s\n' "$*" >&2; exit 1; }
say() { printf 'test-tools: installing %s\n' "$*" >&2; }

mkdir -p "$tools"
tools=$(cd "$tools" && pwd)

node_packages() {
  command -v npm >/dev/null || need "npm is missing: install Node.js (any version; tests use one of their own)"
  cp "$here/test-tools/node/package.json" "$1/"
  (cd "$1" && npm install --silent --no-audit --no-fund --no-package-lock >&2) ||
    need "npm could not install what scripts/test-tools/node/package.json lists (is a registry in reach?)"
}

python_packages() {
  command -v python3 >/dev/null || need "python3 is missing: apt-get install python3 python3-venv"
  python3 -m venv "$1" 2>/dev/null || need "no python venv module: apt-get install python3-venv"
  "$1/bin/pip" install --quiet --disable-pip-version-check --no-compile -r "$here/test-tools/$2.txt" ||
    need "pip could not install what scripts/test-tools/$2.txt lists (is a package index in reach?)"
}

for name in "$@"; do
  case $name in
    node) list=$here/test-tools/node/package.json ;;
    vendors | mcp-1 | mcp-2) list=$here/test-tools/$name.txt ;;
    *) need "there is no $name" ;;
  esac
  (
    flock 9
    wanted=$(sha256sum <"$list" | cut -c1-16)
    [ "$(cat "$tools/.$name" 2>/dev/null)" != "$wanted" ] || exit 0
    say "$name"
    rm -rf "${tools:?}/$name"
    mkdir -p "$tools/$name"
    case $name in
      node) node_packages "$tools/$name" ;;
      *) python_packages "$tools/$name" "$name" ;;
    esac
    echo "$wanted" >"$tools/.$name"
  ) 9>"$tools/.$name.lock"
done
echo "$tools"
