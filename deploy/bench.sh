#!/usr/bin/env bash
# `make bench`: builds the generator and the bare receiver, then runs gnomon-bench where nothing can outlive it (as
# demo.sh does). About five minutes. ONLY="speed stall profile visibility" picks parts; WRITE=1 puts the results into
# docs/benchmarks.md.
set -euo pipefail
bin_dir=$(readlink -f "$1")
root=$(cd "$(dirname "$0")/.." && pwd)
cargo build --release --locked --manifest-path "$root/Cargo.toml" -p gnomon-capture --examples

arguments=(--bin-dir "$bin_dir")
for part in ${ONLY:-}; do arguments+=(--only "$part"); done
[ -z "${WRITE:-}" ] || arguments+=(--write "$root/docs/benchmarks.md")

inside='mkdir -p /run/netns && mount -t tmpfs gnomon-bench /run/netns && exec "$@"'
run=(unshare --mount --pid --fork --kill-child=KILL --mount-proc bash -c "$inside" bench "$bin_dir/gnomon-bench" "${arguments[@]}")
if [ "$(id -u)" = 0 ]; then
    exec "${run[@]}"
fi
command -v sudo > /dev/null || { echo "error: capturing needs root: run as root or install sudo" >&2; exit 1; }
echo "==> capturing and making network namespaces need root: sudo" >&2
exec sudo "${run[@]}"
