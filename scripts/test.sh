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

# One cargo call builds everything once; each suite is one binary.
cargo test --workspace --no-fail-fast -- "${extra[@]}" 2>&1 | tee "$log" || status=$?

passed=$(grep -E '^test result:' "$log" | sed -E 's/.* ([0-9]+) passed.*/\1/' | paste -sd+ | bc 2>/dev/null || echo 0)
failed=$(grep -E '^test result:' "$log" | sed -E 's/.* ([0-9]+) failed.*/\1/' | paste -sd+ | bc 2>/dev/null || echo 0)
ignored=$(grep -E '^test result:' "$log" | sed -E 's/.* ([0-9]+) ignored.*/\1/' | paste -sd+ | bc 2>/dev/null || echo 0)
if [ "${failed:-0}" != 0 ]; then
  echo "failures:"; grep -E '^test .* FAILED$' "$log" || true
fi
echo "${passed:-0} passed, ${failed:-0} failed, ${ignored:-0} skipped"
exit "$status"
