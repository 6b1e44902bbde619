#!/usr/bin/env bash
# Installs what gnomon's build, demo and tests need on Debian or Ubuntu: packages by apt (with root or sudo) and, where
# there is no new enough Rust, a toolchain by rustup for this user. Says what it does; does nothing twice.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
rust_min=$(sed -n 's/^rust-version = "\([0-9.]*\)"/\1/p' "$here/../Cargo.toml")

say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; return; fi
    command -v sudo > /dev/null || die "installing packages needs root: run as root or install sudo"
    sudo "$@"
}

# package → a file that shows it is there (a command's name, or a path)
wanted=(
    gcc:cc g++:c++ pkg-config:pkg-config
    librocksdb-dev:/usr/include/rocksdb/c.h
    libclang-dev:libclang
    iproute2:ip ethtool:ethtool tcpdump:tcpdump nftables:nft iputils-ping:ping
    curl:curl dnsmasq-base:dnsmasq bind9-dnsutils:dig openssl:openssl netcat-openbsd:nc iperf3:iperf3 busybox:busybox
    xz-utils:xz zstd:zstd util-linux:unshare procps:ps ca-certificates:/etc/ssl/certs/ca-certificates.crt
)

present() {
    case "$1" in
        # Not libclang-cpp, which LLVM's runtime brings.
        libclang) compgen -G '/usr/lib/*/libclang-[0-9]*.so*' || compgen -G '/usr/lib/llvm-*/lib/libclang[-.][0-9s]*' ;;
        /*) [ -e "$1" ] ;;
        *) command -v "$1" > /dev/null || [ -x "/usr/sbin/$1" ] || [ -x "/sbin/$1" ] ;;
    esac
}

missing=()
for pair in "${wanted[@]}"; do
    present "${pair#*:}" > /dev/null || missing+=("${pair%%:*}")
done
if [ ${#missing[@]} -gt 0 ]; then
    command -v apt-get > /dev/null || die "this is no Debian or Ubuntu: install by hand: ${missing[*]}"
    say "installing ${missing[*]}"
    as_root apt-get update -q
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
fi

rust_is_new_enough() {
    local have
    have=$(rustc --version 2> /dev/null | awk '{print $2}') || return 1
    [ -n "$have" ] && [ "$(printf '%s\n%s\n' "$rust_min" "$have" | sort -V | head -n 1)" = "$rust_min" ]
}

[ -f "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"
if ! rust_is_new_enough; then
    if ! command -v rustup > /dev/null; then
        say "installing rustup (Rust $rust_min or newer is needed)"
        if apt-cache show rustup > /dev/null 2>&1; then
            as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends rustup
        else
            curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal --component rustfmt,clippy
            . "$HOME/.cargo/env"
        fi
    fi
    rustup toolchain install stable --profile minimal --component rustfmt,clippy
    rustup default stable
    rust_is_new_enough || die "rustc is $(rustc --version 2> /dev/null || echo absent), need $rust_min or newer"
fi
