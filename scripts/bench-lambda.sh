#!/usr/bin/env bash
# Prints how big three Lambda programs are as they are shipped (profile release), how soon they ask for work, and how much
# memory they hold after their first request: one that uses DynamoDB only, one with S3 and the VM too, and one with
# everything. Builds them first, which takes a while: nothing of it is shared with other profiles.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
programs=(get-project run-command think)
cargo build --release --workspace "${programs[@]/#/--bin=}"
# What measures is not what is measured: any build of it will do.
cargo build --workspace --example bench_lambda
"$target/debug/examples/bench_lambda" "$@" "${programs[@]/#/$target/release/}"
