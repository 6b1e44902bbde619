# shellcheck shell=bash
# Sourced by the scripts that fetch what tests run (`*-parts.sh`). Everything is downloaded by apt (or by what its script
# says) and unpacked under the cache; nothing is installed, nothing needs root, and the machine's own package lists stay as
# they are. A script prints the directory of its parts and does nothing twice: to have newer ones, delete that directory.
set -euo pipefail

cache_dir=${XDG_CACHE_HOME:-$HOME/.cache}/gnomon-ci

say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }

# Ends the script; `$what` says what there is none of, for whoever reads why a test is skipped.
die() {
    printf 'no %s here: %s\n' "${what:-parts}" "$*" >&2
    exit 1
}

need() {
    local tool
    for tool in "$@"; do
        command -v "$tool" > /dev/null || die "$tool is missing"
    done
}

# Opens the parts of one kind: `begin_parts FOLDER NAME` leaves an empty `$work`, to be filled and given to `finish_parts`.
# The name has a number that changes whenever the layout of the directory does. False where the parts are there already:
# `$parts` is their directory either way.
begin_parts() {
    cache=$cache_dir/$1
    parts=$cache/$2
    work=$parts.new
    [ -f "$parts/complete" ] && return 1
    mkdir -p "$cache"
    exec 9> "$cache/lock"
    flock -w 900 9 || die "another process has been fetching for 15 minutes"
    [ -f "$parts/complete" ] && return 1
    rm -rf "$work"
    mkdir -p "$work"
}

finish_parts() {
    touch "$work/complete"
    rm -rf "$parts"
    mv "$work" "$parts"
    say "$what: in $parts ($(du -sh "$parts" | cut -f1))"
}

# For a script without arguments: runs it once for each of these, as one that cannot be had does not take the others away.
each_alone() {
    local one missing=0
    for one in "$@"; do
        "$0" "$one" || missing=1
    done
    exit "$missing"
}

unpack() {
    local into=$1 deb
    shift
    for deb in "$@"; do dpkg-deb -x "$deb" "$into"; done
}

# The mirror of Debian that this machine's own apt is set up with.
debian_mirror() {
    local mirror=${GNOMON_DEBIAN_MIRROR:-}
    if [ -z "$mirror" ]; then
        # shellcheck source=/dev/null
        mirror=$(. /etc/os-release && [ "$ID" = debian ] &&
            apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' |
            awk -v codename="${VERSION_CODENAME:-sid}" '
                $2 == codename || $2 ~ /^(oldstable|stable|testing|unstable|sid)$/ { print $1; exit }') || true
    fi
    [ -n "$mirror" ] || die "apt of this machine knows no mirror of Debian: name one in GNOMON_DEBIAN_MIRROR"
    echo "$mirror"
}

# Lists of its own for apt, with nothing installed, in `$cache/apt`: `open_suites SUITE...`, then `suite_apt COMMAND...`.
# For a suite with `+source` behind its name there are those of source packages too.
open_suites() {
    local keyring=/usr/share/keyrings/debian-archive-keyring.gpg mirror suite apt=$cache/apt
    mirror=$(debian_mirror)
    rm -rf "$apt"
    mkdir -p "$apt"/{lists/partial,archives/partial,sources.d,debs}
    : > "$apt/status"
    # The key of a release is in the keyring's package of the release before it, if that is not too old.
    if [ ! -r "$keyring" ] || [ ! -r /usr/share/keyrings/debian-archive-trixie-automatic.gpg ]; then
        (cd "$apt/debs" && timeout 600 apt-get -o APT::Sandbox::User=root download debian-archive-keyring >&2) ||
            die "apt has no debian-archive-keyring: apt-get update?"
        unpack "$apt/keyring" "$apt/debs"/debian-archive-keyring_*.deb
        keyring=$apt/keyring$keyring
    fi
    [ -r "$keyring" ] || die "debian-archive-keyring has no keys"
    for suite in "$@"; do
        echo "deb [signed-by=$keyring] $mirror ${suite%+source} main"
        [ "$suite" = "${suite%+source}" ] || echo "deb-src [signed-by=$keyring] $mirror ${suite%+source} main"
    done > "$apt/sources.list"
    suite_apt apt-get -o APT::Update::Error-Mode=any update -q >&2 || die "apt's mirror of Debian cannot be reached, or has not $*"
}

suite_apt() {
    local command=$1 apt=$cache/apt
    shift
    timeout 900 "$command" -o Acquire::Retries=2 -o Acquire::http::Timeout=30 -o Acquire::Languages=none \
        -o Dir::State::lists="$apt/lists" -o Dir::State::status="$apt/status" -o Dir::Cache="$apt" \
        -o Dir::Etc::SourceList="$apt/sources.list" -o Dir::Etc::SourceParts="$apt/sources.d" \
        -o APT::Sandbox::User=root "$@"
}
