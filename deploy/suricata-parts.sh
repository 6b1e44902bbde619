#!/usr/bin/env bash
# Fetches the Suricata that the alert test runs: that of this Debian's backports (7 on bookworm, 8 on trixie), with the
# libraries this machine lacks. Everything is downloaded by apt and unpacked under the cache; nothing is installed, nothing
# needs root, and the machine's own package lists stay as they are. Prints the directory. Does nothing twice; to have a
# newer Suricata, delete the directory.
set -euo pipefail

# Changes whenever the layout of the directory does.
recipe=1
cache=${XDG_CACHE_HOME:-$HOME/.cache}/gnomon-ci/suricata
parts=$cache/parts-$recipe
mirror=http://deb.debian.org/debian
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }
die() { printf 'no Suricata here: %s\n' "$*" >&2; exit 1; }

if [ -f "$parts/complete" ]; then
    echo "$parts"
    exit 0
fi
for tool in apt-get apt-cache dpkg dpkg-deb; do
    command -v $tool > /dev/null || die "$tool is missing"
done
# shellcheck source=/dev/null
. /etc/os-release
[ "$ID" = debian ] || die "its packages are taken from Debian, this is $ID"
[ -r "$keyring" ] || die "$keyring is missing"
mkdir -p "$cache/apt"/{lists/partial,archives/partial,sources.d} "$cache/debs"
exec 9> "$cache/lock"
flock -w 900 9 || die "another process has been fetching for 15 minutes"
if [ -f "$parts/complete" ]; then
    echo "$parts"
    exit 0
fi

# Lists of its own, apart from the machine's; what is installed is the machine's.
own_apt() {
    local command=$1
    shift
    timeout 600 "$command" -o Acquire::Retries=2 -o Acquire::http::Timeout=30 -o Dir::State::lists="$cache/apt/lists" \
        -o Dir::Cache="$cache/apt" -o Dir::Etc::SourceList="$cache/apt/sources.list" \
        -o Dir::Etc::SourceParts="$cache/apt/sources.d" -o APT::Sandbox::User=root "$@"
}

for suite in "$VERSION_CODENAME" "$VERSION_CODENAME-updates" "$VERSION_CODENAME-backports"; do
    echo "deb [signed-by=$keyring] $mirror $suite main"
done > "$cache/apt/sources.list"
own_apt apt-get update -q >&2 || die "$mirror cannot be reached"
target=$VERSION_CODENAME-backports
missing=$(own_apt apt-get install -s --no-install-recommends -t "$target" suricata | sed -n 's/^Inst \([^ ]*\).*/\1/p') ||
    die "$target has no suricata that fits this machine"
case " $(echo "$missing" | tr '\n' ' ') " in
    *" suricata "*) ;;
    *) die "apt would install no suricata from $target: $missing" ;;
esac
work=$parts.new
rm -rf "$work" "$cache/debs"
mkdir -p "$work" "$cache/debs"
say "Suricata from $target: $(wc -w <<< "$missing") packages"
# shellcheck disable=SC2086
(cd "$cache/debs" && own_apt apt-get download -t "$target" $missing >&2) || die "its packages cannot be downloaded"
for deb in "$cache/debs"/*.deb; do
    dpkg-deb -x "$deb" "$work"
done
libraries=$(find "$work/usr/lib" -maxdepth 1 -name '*-linux-gnu' | head -n 1)
LD_LIBRARY_PATH=$libraries "$work/usr/bin/suricata" -V >&2 || die "the unpacked Suricata does not start"
echo "${libraries#"$work/"}" > "$work/libraries"
rm -rf "$cache/debs"
touch "$work/complete"
rm -rf "$parts"
mv "$work" "$parts"
echo "$parts"
