#!/usr/bin/env bash
# Runs the official clients against the server that E2B_API_URL, E2B_SANDBOX_URL and E2B_API_KEY name.
# Usage: run.sh core|full|<suite>...
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=${PVM_TEST_CACHE:-${CARGO_TARGET_DIR:-$root/target}}/compat
: "${E2B_API_URL:?name the server}" "${E2B_SANDBOX_URL:?name the server}" "${E2B_API_KEY:?a key of the server}"
# The server is on this machine or named by its own address: no proxy stands before it.
export NO_PROXY=127.0.0.1,localhost no_proxy=127.0.0.1,localhost PYTHONDONTWRITEBYTECODE=1

case ${1:-core} in
  core) suites=(python-2.63.0 python-2.45.1 js) marks=(-m 'not full') ;;
  full) suites=(python-2.63.0 python-2.45.1 js langchain) marks=() ;;
  *) suites=("$@") marks=() ;;
esac

# A venv with exactly the packages of a list; made again when the list has changed.
venv() {
  local folder=$cache/$1 list=$2
  if ! cmp -s "$list" "$folder/installed.txt"; then
    rm -rf "$folder"
    mkdir -p "$cache"
    python3 -m venv "$folder" >&2
    "$folder/bin/pip" install --quiet --disable-pip-version-check --requirement "$list" >&2
    cp "$list" "$folder/installed.txt"
  fi
  echo "$folder/bin/python"
}

node_modules() {
  local folder=$cache/js
  mkdir -p "$folder"
  if ! cmp -s "$here/js/package.json" "$folder/package.json"; then
    cp "$here/js/package.json" "$folder/package.json"
    (cd "$folder" && npm install --no-fund --no-audit --loglevel=error >&2)
  fi
  # Beside node_modules, where the import finds them.
  cp "$here"/js/*.test.mjs "$folder/"
}

results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT
status=0
for suite in "${suites[@]}"; do
  echo "== $suite"
  case $suite in
    python-*)
      python=$(venv "$suite" "$here/python/requirements-${suite#python-}.txt")
      (cd "$here/python" && "$python" -m pytest "${marks[@]}" --junitxml="$results/$suite.xml") || true ;;
    langchain)
      python=$(venv "$suite" "$here/langchain/requirements.txt")
      (cd "$here/langchain" && "$python" -m pytest --junitxml="$results/$suite.xml" test_langchain.py) || true ;;
    js)
      node_modules
      (cd "$cache/js" && node --test --test-reporter=spec --test-reporter-destination=stdout \
        --test-reporter=junit --test-reporter-destination="$results/$suite.xml" sdk.test.mjs) || true ;;
    *) echo "no such suite: $suite" >&2; exit 2 ;;
  esac
  python3 "$here/judge.py" "$suite" "$results/$suite.xml" "$here/expected-failures.txt" || status=1
done
exit $status
