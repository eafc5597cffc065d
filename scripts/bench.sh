#!/usr/bin/env bash
# Prints the figures of the design, each as a ratio to a baseline measured in the same run: the whole system through its
# API, then the orchestration of 200 conversations at once with models that answer at once, then the sandbox server alone
# (beside docker, runc and bwrap where they are installed).
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
cargo build --profile local -p pvm-sandboxd --bin pvm-sandboxd-bench
cargo build --profile local -p pvm-tests --example bench_conversations
"$target/local/pvm" bench "$@"
"$target/local/examples/bench_conversations"
# E2B's own client joins where `make test` has installed it.
python=$target/compat/python-2.63.0/bin/python
[ -x "$python" ] && export PVM_BENCH_PYTHON=$python
"$target/local/pvm-sandboxd-bench"
