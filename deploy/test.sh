#!/usr/bin/env bash
# Every test. Those that need namespaces or raw sockets run as root (by sudo where this is a user); a test that cannot
# run here prints `SKIPPED: reason`, and is counted so.
set -uo pipefail
cd "$(dirname "$0")/.."
log=$(mktemp)
trap 'rm -f "$log"' EXIT

if [ "$(id -u)" != 0 ] && command -v sudo > /dev/null; then
    host=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
    # Only the test programs run as root, not the compiler.
    export "CARGO_TARGET_${host}_RUNNER=sudo --preserve-env=PATH,HOME,XDG_CACHE_HOME,CARGO_TARGET_DIR,RUST_BACKTRACE"
fi
echo "==> building the programs under test" >&2
cargo build --locked --bins -p gnomon-agent -p gnomon-collector -p gnomon-cli || exit 1
echo "==> what the guests are made of" >&2
deploy/guest-parts.sh > /dev/null || echo "    the tests that need a guest will be skipped" >&2
echo "==> testing" >&2
test_with() {
    cargo test --locked --no-fail-fast "$@" 2>&1 | tee -a "$log" | grep -vE '^(SKIPPED|successes:|---- |$|    [a-z_:0-9]+$)'
    [ "${PIPESTATUS[0]}" = 0 ] || status=1
}
status=0
test_with --workspace -- --show-output
# Minutes each: docs/guest-tests.md.
if [ "${GNOMON_GUEST:-}" = all ]; then
    test_with -p gnomon-integration-tests --test guest_time -- --show-output --ignored
fi

skipped=$(grep -c '^SKIPPED' "$log")
if [ "$skipped" -gt 0 ]; then
    echo
    echo "$skipped tests could not run here:"
    grep '^SKIPPED' "$log" | sort | uniq -c | sed 's/^/  /'
fi
passed=$(sed -nE 's/^test result: .* ([0-9]+) passed; ([0-9]+) failed.*/\1/p' "$log" | awk '{n += $1} END {print n + 0}')
failed=$(sed -nE 's/^test result: .* ([0-9]+) passed; ([0-9]+) failed.*/\2/p' "$log" | awk '{n += $1} END {print n + 0}')
echo
echo "$((passed - skipped)) passed, $failed failed, $skipped skipped"
exit "$status"
