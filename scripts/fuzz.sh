#!/usr/bin/env bash
# Runs every fuzz target for a bounded time (PVM_FUZZ_SECONDS each, a minute if not set) on the stable toolchain: the
# coverage counters that cargo-fuzz asks for are options of the stable compiler too. Usage: fuzz.sh [target...]
set -euo pipefail
cd "$(dirname "$0")/../infra/fuzz"
seconds=${PVM_FUZZ_SECONDS:-60}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/../../target}/fuzz
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
# With a named target, build scripts are not compiled with the counters, which they could not link.
host=$(rustc -vV | sed -n 's/^host: //p')
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(sed -n 's/^name = "\([a-z-]*\)"$/\1/p' Cargo.toml | tail -n +2)

cargo build --release --target "$host"
for target in "${targets[@]}"; do
  echo "== $target, $seconds s"
  corpus=$CARGO_TARGET_DIR/corpus/$target artifacts=$CARGO_TARGET_DIR/artifacts/$target/
  mkdir -p "$corpus" "$artifacts"
  "$CARGO_TARGET_DIR/$host/release/$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=8192 \
    -print_final_stats=1 -artifact_prefix="$artifacts" "$corpus" "corpus/$target" 2>&1 |
    grep -E '^(stat::|SUMMARY|==|artifact|.*(ERROR|panicked|assertion))' || [ "${PIPESTATUS[0]}" = 0 ]
done
