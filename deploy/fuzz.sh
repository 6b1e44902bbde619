#!/usr/bin/env bash
# Fuzzes everything that reads bytes of strangers, each target for so many seconds. Needs a C++ compiler for libFuzzer, and
# neither nightly nor cargo-fuzz: coverage comes from LLVM's own pass. The corpus grows beside the build; a crash
# is kept there and named. Usage: fuzz.sh SECONDS [TARGET]
set -euo pipefail
cd "$(dirname "$0")/../fuzz"
seconds=${1:-600}
only=${2:-}
targets=(decode sequence capture_file stream datagram entry eve expression)
host=$(rustc -vV | sed -n 's/^host: //p')
out=${CARGO_TARGET_DIR:-$PWD/../target}/fuzz

# What sanitizer coverage needs; debug assertions and overflow checks stand in the profile. With --target, build scripts
# are not instrumented.
pass="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters"
pass="$pass -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing -Ccodegen-units=1"
# What the targets begin with is written by a plain program: it has no libFuzzer to report coverage to.
cargo run --quiet --locked --bin seeds -- "$out/corpus"
RUSTFLAGS="$pass" CARGO_TARGET_DIR="$out" cargo build --release --locked --target "$host" "${targets[@]/#/--bin=}"
bin=$out/$host/release

status=0
for target in "${targets[@]}"; do
    [ -z "$only" ] || [ "$only" = "$target" ] || continue
    echo "==> $target for $seconds s" >&2
    mkdir -p "$out/crashes"
    "$bin/$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -max_len=65536 -use_value_profile=1 -print_final_stats=1 \
        -artifact_prefix="$out/crashes/$target-" "$out/corpus/$target" 2> "$out/$target.log" || {
        status=1
        grep -E "panicked|SUMMARY|Test unit written" "$out/$target.log" >&2 || tail -n 20 "$out/$target.log" >&2
    }
    grep -E "^stat::number_of_executed_units|DONE" "$out/$target.log" | tail -n 2 >&2 || true
done
exit "$status"
