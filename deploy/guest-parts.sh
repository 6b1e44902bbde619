#!/usr/bin/env bash
# Fetches what the guest tests boot: QEMU, a kernel whose virtio_net does AF_XDP zero copy (6.16 or newer), a static
# busybox and chronyd. Prints the directory.
# shellcheck source=deploy/parts.sh
. "$(dirname "$0")/parts.sh"
what=guests

# The newest kernels that Debian builds for its stable release.
suite=trixie-backports

# Packages of this machine's own release (their libraries must fit), by apt's own lists.
own_download() {
    (cd "$cache/debs" && timeout 600 apt-get -o APT::Sandbox::User=root download "$@" >&2)
}

own_lists() {
    [ -n "$(apt-cache madison qemu-system-x86 2> /dev/null)" ] && return
    if [ "$(id -u)" = 0 ]; then
        say "apt has no package lists: updating them"
        timeout 300 apt-get update -q >&2 || true
    fi
    [ -n "$(apt-cache madison qemu-system-x86 2> /dev/null)" ] || die "apt knows no qemu-system-x86: apt-get update?"
}

newest_deb() { ls -t "$cache/debs/$1"_*.deb | head -n 1; }

fetch_kernel() {
    local package
    open_suites "$suite"
    package=$(suite_apt apt-cache pkgnames linux-image- | grep -E '^linux-image-[0-9][^-]*\+?.*-cloud-amd64$' |
        grep -v unsigned | sort -V | tail -n 1) || true
    [ -n "$package" ] || die "no linux-image-*-cloud-amd64 can be had from $suite"
    say "kernel: $package"
    # From 7.2 on the image and the modules are packages of their own.
    local root=$work/kernel-package version=${package#linux-image-} one
    for one in "$package" "linux-binary-$version" "linux-modules-$version"; do
        if [ -n "$(suite_apt apt-cache pkgnames "$one" | grep -Fx "$one")" ]; then
            (cd "$cache/debs" && suite_apt apt-get download "$one" >&2)
            unpack "$root" "$(newest_deb "$one")"
        fi
    done
    uncompress_kernel "$(find "$root" -name 'vmlinuz*' -type f | head -n 1)" "$work/vmlinux"
    # What the guest needs of it: the names in integration-tests/src/guest/parts.rs.
    local name file
    for name in virtio virtio_ring virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci failover net_failover \
        virtio_net; do
        file=$(find "$root" -name "$name.ko*" | head -n 1)
        # A module that is not there is built in.
        case "$file" in
            *.xz) xz -dc "$file" > "$work/modules/$name.ko" ;;
            *.zst) zstd -qdc "$file" > "$work/modules/$name.ko" ;;
            *.ko) cp "$file" "$work/modules/" ;;
        esac
    done
    echo "$package" > "$work/kernel.name"
    rm -rf "$root"
}

# The ELF image inside a bzImage, which QEMU boots without firmware and without unpacking it slowly (PVH).
uncompress_kernel() {
    local image=$1 out=$2 offset
    while read -r offset; do
        tail -c +$((offset + 1)) "$image" | { xz -qqdc --single-stream 2> /dev/null || true; } > "$out"
        is_elf "$out" && return
    done < <(LC_ALL=C grep -abo $'\xfd7zXZ' "$image" | cut -d: -f1)
    while read -r offset; do
        tail -c +$((offset + 1)) "$image" | { zstd -qdc 2> /dev/null || true; } > "$out"
        is_elf "$out" && return
    done < <(LC_ALL=C grep -aboP '\x28\xb5\x2f\xfd' "$image" | cut -d: -f1)
    die "cannot find the ELF image in $(basename "$image")"
}

is_elf() { [ "$(head -c 4 "$1" | tail -c 3)" = ELF ]; }

# QEMU of this machine where it is new enough (-netdev dgram came with 7.2); else with the libraries it lacks, unpacked.
fetch_qemu() {
    local version missing
    if command -v qemu-system-x86_64 > /dev/null; then
        version=$(qemu-system-x86_64 --version | sed -nE '1s/.*version ([0-9]+\.[0-9]+).*/\1/p')
        if [ "$(printf '7.2\n%s\n' "$version" | sort -V | head -n 1)" = 7.2 ]; then
            say "QEMU: this machine's own $version"
            ln -s "$(command -v qemu-system-x86_64)" "$work/qemu/qemu-system-x86_64"
            return
        fi
    fi
    missing=$(apt-get install -s --no-install-recommends qemu-system-x86 | sed -n 's/^Inst \([^ ]*\).*/\1/p')
    say "QEMU: $(wc -w <<< "$missing") packages"
    # shellcheck disable=SC2086
    own_download $missing
    local package
    for package in $missing; do
        # Graphics, sound and firmware that no guest of ours uses are left out where QEMU starts without them.
        case "$package" in ipxe-qemu) continue ;; esac
        unpack "$work/qemu" "$(newest_deb "$package")"
    done
    ln -s usr/bin/qemu-system-x86_64 "$work/qemu/qemu-system-x86_64"
    local libs=$work/qemu/usr/lib/x86_64-linux-gnu
    timeout 20 env LD_LIBRARY_PATH="$libs" "$work/qemu/qemu-system-x86_64" --version >&2 || die "the unpacked QEMU does not start"
}

# chronyd and the libraries it is linked to, as they lie in the guest.
fetch_chrony() {
    own_download chrony busybox-static
    local root=$work/chrony-package lib
    unpack "$root" "$(newest_deb chrony)" "$(newest_deb busybox-static)"
    cp "$root"/*/busybox "$work/busybox" 2> /dev/null || cp "$root"/usr/bin/busybox "$work/busybox"
    # Libraries that this machine lacks.
    local missing package
    missing=$(apt-get install -s --no-install-recommends chrony | sed -n 's/^Inst \(lib[^ ]*\).*/\1/p')
    for package in $missing; do
        own_download "$package"
        unpack "$root" "$(newest_deb "$package")"
    done
    mkdir -p "$work/chrony/usr/sbin"
    cp "$root/usr/sbin/chronyd" "$root/usr/bin/chronyc" "$work/chrony/usr/sbin/"
    for program in chronyd chronyc; do
        LD_LIBRARY_PATH=$root/usr/lib/x86_64-linux-gnu ldd "$work/chrony/usr/sbin/$program"
    done | grep -oE '(=> )?/[^ ]+' | sed 's/^=> //' | sort -u | while read -r lib; do
        case "$lib" in
            *ld-linux*) install -D "$lib" "$work/chrony/lib64/$(basename "$lib")" ;;
            *) install -D "$lib" "$work/chrony/lib/x86_64-linux-gnu/$(basename "$lib")" ;;
        esac
    done
    rm -rf "$root"
}

if begin_parts guest parts-1; then
    [ "$(uname -m)" = x86_64 ] || die "the guest's kernel and programs are for x86_64, this is $(uname -m)"
    need apt-get apt-cache dpkg-deb xz zstd
    mkdir -p "$cache/debs" "$work"/{qemu,chrony,modules}
    own_lists
    fetch_kernel
    fetch_qemu
    fetch_chrony
    rm -rf "$cache/debs" "$cache/apt"
    finish_parts
fi
echo "$parts"
