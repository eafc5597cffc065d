#!/usr/bin/env bash
# Installs the tools of the AWS form, each of one fixed version, and prints the folder they are in. Safe to run again:
# when nothing changed it only prints. With --cross also zig, by which cargo-lambda builds for arm64 on x86_64.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
lists=$here/aws-tools
tools=${PVM_AWS_TOOLS:-${CARGO_TARGET_DIR:-$(dirname "$here")/target}/aws-tools}
cross=no
[ "${1:-}" = --cross ] && cross=yes

say() { printf 'aws-tools: %s\n' "$*" >&2; }
need() { say "$*"; exit 1; }

mkdir -p "$tools"
tools=$(cd "$tools" && pwd)
exec 9>"$tools/.lock"
flock 9

wanted=$(cat "$lists"/*.txt "$lists/package.json" "$here/aws-tools.sh" | sha256sum | cut -c1-16)
# What was left out for want of npm is made up for when there is one.
command -v npm >/dev/null || wanted=$wanted-without-npm
if [ "$(cat "$tools/.installed" 2>/dev/null)" != "$wanted" ]; then
  command -v python3 >/dev/null || need "python3 is missing: apt-get install python3 python3-venv"
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || need "python3 is older than 3.10"
  rm -rf "$tools/emulator" "$tools/sam" "$tools/asl"
  for name in emulator sam; do
    say "installing $name"
    python3 -m venv "$tools/$name" 2>/dev/null || need "no python venv module: apt-get install python3-venv"
    # The lists name everything, so pip has nothing to resolve.
    "$tools/$name/bin/pip" install --quiet --disable-pip-version-check --no-compile --no-deps -r "$lists/$name.txt" ||
      need "pip could not install the list scripts/aws-tools/$name.txt (is a package index in reach?)"
  done
  if command -v npm >/dev/null; then
    say "installing asl-validator"
    mkdir -p "$tools/asl"
    cp "$lists/package.json" "$tools/asl/"
    (cd "$tools/asl" && npm install --silent --no-audit --no-fund --no-package-lock >&2) ||
      need "npm could not install asl-validator"
  else
    say "npm is missing: asl-validator is left out (our own interpreter checks the state machines all the same)"
  fi
  echo "$wanted" >"$tools/.installed"
fi
if [ $cross = yes ] && ! "$tools/sam/bin/python" -c 'import ziglang' 2>/dev/null; then
  say "installing zig"
  "$tools/sam/bin/pip" install --quiet --disable-pip-version-check ziglang==0.17.1
fi
echo "$tools"
