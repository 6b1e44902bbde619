#!/usr/bin/env bash
# Every test. Those that need namespaces or raw sockets run as root (by sudo where this is a user). A test that cannot run
# here prints `SKIPPED: reason` and passes: it is counted as skipped, once, however often it says so.
set -uo pipefail
cd "$(dirname "$0")/.."
log=$(mktemp)
trap 'rm -f "$log"' EXIT

if [ "$(id -u)" != 0 ] && command -v sudo > /dev/null; then
    host=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
    # Only the test programs run as root, not the compiler.
    export "CARGO_TARGET_${host}_RUNNER=sudo --preserve-env=PATH,HOME,XDG_CACHE_HOME,CARGO_TARGET_DIR,RUST_BACKTRACE,GNOMON_PYTHON,GNOMON_CHRONYD,GNOMON_GUEST,GNOMON_KILLS,GNOMON_POWER_CUTS,GNOMON_SEED,GNOMON_ECS_FIELDS,GNOMON_EVE_SCHEMA"
fi
echo "==> building the programs under test" >&2
cargo build --locked --bins -p gnomon-agent -p gnomon-collector -p gnomon-cli || exit 1
echo "==> what the guests are made of" >&2
parts=$(deploy/guest-parts.sh) || echo "    the tests that need a guest will be skipped" >&2
# The guest's chronyd does for the test that wants one here.
chronyd=$parts/chrony/usr/sbin/chronyd
if ! command -v chronyd > /dev/null && [ ! -x /usr/sbin/chronyd ] && "$chronyd" --version > /dev/null 2>&1; then
    export GNOMON_CHRONYD=${GNOMON_CHRONYD:-$chronyd}
fi
deploy/suricata-parts.sh > /dev/null || echo "    the tests that need a Suricata that is missing will be skipped" >&2
echo "==> what reads the exports" >&2
for reader in $(deploy/reader-parts.sh || echo "    the checks that need one that is missing will be skipped" >&2); do
    case "$reader" in
        */python-*) export GNOMON_PYTHON=${GNOMON_PYTHON:-$reader/bin/python} ;;
        */eve-*) export GNOMON_EVE_SCHEMA=${GNOMON_EVE_SCHEMA:-$reader/schema.json} ;;
        */ecs-*) export GNOMON_ECS_FIELDS=${GNOMON_ECS_FIELDS:-$reader/ecs_flat.yml} ;;
    esac
done
echo "==> testing" >&2
test_with() {
    # What tests that passed have to say is in the log alone.
    cargo test --locked --no-fail-fast "$@" 2>&1 | tee -a "$log" | awk '
        $0 == "successes:" { hidden = 1 }
        $0 == "failures:" || /^test result: / { hidden = 0 }
        !hidden && NF { print; fflush() }'
    [ "${PIPESTATUS[0]}" = 0 ] || status=1
}
status=0
test_with --workspace -- --show-output
# A minute or two each: docs/guest-tests.md.
if [ "${GNOMON_GUEST:-}" = all ]; then
    test_with -p gnomon-integration-tests --test guest_time -- --show-output --ignored
fi

# The log has a part for each test program; in it, first what passed tests printed, then what failed ones did.
awk '
    /^ +(Running|Doc-tests) / { program = $0; begun++ }
    $0 == "successes:" { passed_ones = 1 }
    $0 == "failures:" { passed_ones = 0; test = "" }
    /^---- .* stdout ----$/ { test = $0 }
    /^SKIPPED: / && passed_ones && test != "" && !((program, test) in seen) { seen[program, test]; why[$0]++; skipped++ }
    /^test result: / {
        ended++; passed_ones = 0; test = ""
        for (i = 2; i <= NF; i++) {
            if ($i == "passed;") passed += $(i - 1)
            if ($i == "failed;") failed += $(i - 1)
            if ($i == "ignored;") ignored += $(i - 1)
        }
    }
    END {
        if (skipped) {
            printf "\n%d tests could not run here:\n", skipped
            for (reason in why) printf "  %4d %s\n", why[reason], reason
        }
        printf "\n%d passed, %d failed, %d skipped", passed - skipped, failed, skipped
        if (ignored) printf ", %d ignored (measurements, processes that other tests start, guests unless GNOMON_GUEST=all)", ignored
        print ""
        if (begun > ended) printf "%d test programs did not get to their end\n", begun - ended
    }' "$log"
exit "$status"
