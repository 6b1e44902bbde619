#!/usr/bin/env bash
# Fetches the Suricatas that the alert tests run: 7 of Debian 13, and 8 of its backports. Each comes with every library it
# is linked to and the loader of that release, so that it runs on whatever this machine is. Prints the directories of those
# that are there; fails where one is missing.
# shellcheck source=deploy/parts.sh
. "$(dirname "$0")/parts.sh"
what=Suricata

# Packages whose files Suricata itself does not load.
unneeded='^(lib(python|systemd|acl|selinux)|python|dpkg$|tar$|debconf$|init-system|media-types|netbase|tzdata|isa-support|sse|procps|readline)'

[ $# -gt 0 ] || each_alone trixie trixie-backports
suite=$1
if begin_parts suricata "$suite-1"; then
    need apt-get apt-cache dpkg dpkg-deb
    # Backports stand on their release.
    suites=("${suite%-backports}")
    [ "$suite" = "${suites[0]}" ] || suites+=("$suite")
    open_suites "${suites[@]}"
    packages=$(suite_apt apt-get install -s --no-install-recommends -t "$suite" suricata |
        sed -n 's/^Inst \([^ ]*\).*/\1/p' | grep -vE "$unneeded") || die "$suite has none for this machine"
    say "Suricata of $suite: $(wc -w <<< "$packages") packages"
    rm -rf "$cache/debs"
    mkdir -p "$cache/debs"
    # shellcheck disable=SC2086
    (cd "$cache/debs" && suite_apt apt-get download -t "$suite" $packages >&2) || die "its packages cannot be downloaded"
    unpack "$work" "$cache/debs"/*.deb
    rm -rf "$cache/debs" "$cache/apt"
    # How it is started: the loader, and where the libraries are, below the directory.
    loader=$(cd "$work" && find usr/lib usr/lib64 -name 'ld-linux*' 2> /dev/null | head -n 1)
    libraries=$(cd "$work" && find usr/lib -maxdepth 1 -name '*-linux-gnu' | head -n 1)
    printf '%s\n%s\n' "$loader" "$libraries" > "$work/loader"
    "$work/$loader" --library-path "$work/$libraries" "$work/usr/bin/suricata" -V >&2 ||
        die "the unpacked Suricata of $suite does not start"
    finish_parts
fi
echo "$parts"
