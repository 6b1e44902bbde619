#!/usr/bin/env bash
# Runs gnomon-demo where nothing can outlive it: a PID namespace (its end kills every process in it), and a mount
# namespace (network namespaces named in it vanish with it). Needs root for that, and for capturing.
set -euo pipefail
bin_dir=$(readlink -f "$1")
shift
inside='mkdir -p /run/netns && mount -t tmpfs gnomon-demo /run/netns && exec "$@"'
run=(unshare --mount --pid --fork --kill-child=KILL --mount-proc bash -c "$inside" demo "$bin_dir/gnomon-demo" --bin-dir "$bin_dir" "$@")
if [ "$(id -u)" = 0 ]; then
    exec "${run[@]}"
fi
command -v sudo > /dev/null || { echo "error: capturing needs root: run as root or install sudo" >&2; exit 1; }
echo "==> capturing and making network namespaces need root: sudo" >&2
exec sudo "${run[@]}"
