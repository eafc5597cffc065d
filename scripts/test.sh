#!/usr/bin/env bash
# Runs the tests; with --full the heavy cases too. The last line counts all of them.
set -euo pipefail
cd "$(dirname "$0")/.."
full=no
[ "${1:-}" = --full ] && full=yes

log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
extra=()
[ $full = yes ] && extra=(--include-ignored)

# Suites that start real programs need them built; the same features for all, so that nothing is built twice.
cargo build --workspace --bin pvm --bin pvm-mcp-stdio --example mcp-conformance
cargo test --workspace --no-fail-fast -- "${extra[@]}" 2>&1 | tee "$log" || status=$?

count() { awk -v word="$1" '/^test result:/ { for (i = 2; i <= NF; i++) if ($i ~ "^" word) sum += $(i - 1) } END { print sum + 0 }' "$log"; }
passed=$(count passed) failed=$(count failed) ignored=$(count ignored)
if [ "$failed" != 0 ]; then
  echo "failures:"
  grep -E '^test .* FAILED$' "$log" || true
fi
echo "$passed passed, $failed failed, $ignored skipped"
exit "$status"
