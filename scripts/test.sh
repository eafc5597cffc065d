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

# One more test that is no test of cargo's: `part NAME COMMAND...`. Status 3 says that it cannot run on this machine.
part() {
  local name=$1 code=0
  shift
  "$@" || code=$?
  case $code in
    0) echo "test result: ok. $name: 1 passed; 0 failed; 0 ignored" ;;
    3) echo "test result: ok. $name: 0 passed; 0 failed; 1 ignored (cannot run here; the line above says why)" ;;
    *) echo "test $name ... FAILED"; echo "test result: FAILED. $name: 0 passed; 1 failed; 0 ignored"; return 1 ;;
  esac
}

# Suites that start real programs need them built; the same features for all, so that nothing is built twice.
cargo build --workspace --bin pvm --bin pvm-mcp-stdio --example mcp-conformance
# A suite that hangs must not keep CI from saying so.
limit=${PVM_TEST_LIMIT:-3600} aws_limit=1500
[ $full = yes ] && limit=${PVM_TEST_LIMIT:-28800} aws_limit=7200
timeout --foreground --kill-after=30 "$limit" cargo test --workspace --no-fail-fast -- "${extra[@]}" 2>&1 | tee "$log" || status=$?
if [ $status = 124 ]; then
  echo "test the suite above, which did not end within $limit s ... FAILED" | tee -a "$log"
  echo "test result: FAILED. a suite that hangs: 0 passed; 1 failed; 0 ignored" | tee -a "$log"
fi

# The AWS form: all programs of the template, deployed on an emulator that runs them as programs of this machine. In full
# SAM builds them, as it does for a deployment; otherwise they are linked from what the suites above have compiled.
[ $full = yes ] && export PVM_AWS_BUILD=lambda-ci
if [ "$(uname -m)" = x86_64 ]; then
  timeout --foreground --kill-after=30 $aws_limit cargo test --workspace --test aws_shaped -- "${extra[@]}" 2>&1 | tee -a "$log" || status=$?
fi
if [ $full = yes ]; then
  part "sam local" scripts/sam-local.sh check 2>&1 | tee -a "$log" || status=$?
fi

count() { awk -v word="$1" '/^test result:/ { for (i = 2; i <= NF; i++) if ($i ~ "^" word) sum += $(i - 1) } END { print sum + 0 }' "$log"; }
passed=$(count passed) failed=$(count failed) ignored=$(count ignored)
if [ "$failed" != 0 ]; then
  echo "failures:"
  grep -E '^test .* FAILED$' "$log" || true
fi
echo "$passed passed, $failed failed, $ignored skipped"
exit "$status"
