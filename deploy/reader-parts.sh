#!/usr/bin/env bash
# Fetches what the export tests read gnomon's exports with: readers written in Python (by pip), Suricata's JSON schema of
# EVE (from Debian's source package of Suricata 8, by apt) and the fields of the Elastic Common Schema (by npm). Prints the
# directories of those that are there; fails where one is missing.
# shellcheck source=deploy/parts.sh
. "$(dirname "$0")/parts.sh"

fetch_python() {
    what="Python readers"
    if begin_parts readers python-1; then
        need python3
        python3 -m venv "$work" >&2 || die "python3 -m venv fails"
        # zat without the half of the registry that its other parts want.
        "$work/bin/python" -m pip install --no-deps zat >&2 || die "pip cannot install zat"
        "$work/bin/python" -m pip install jsonschema >&2 || die "pip cannot install jsonschema"
        finish_parts
    fi
}

fetch_eve() {
    what="schema of EVE"
    if begin_parts readers eve-1; then
        need apt-get apt-cache dpkg-deb tar
        open_suites trixie-backports+source unstable+source
        local version uri file sum
        # The newest whose source the mirror has; the release's own 7 has no schema in it.
        while read -r version; do
            # Only the archive itself, as the signed lists have its sum.
            read -r uri file _ sum < <(suite_apt apt-get source --print-uris --download-only "suricata=$version" |
                grep -E "\.orig\.tar\.[a-z]+' " | tr -d "'")
            say "$file, of which one file is kept"
            suite_apt /usr/lib/apt/apt-helper download-file "$uri" "$work/$file" "$sum" >&2 || continue
            tar -xaOf "$work/$file" --wildcards '*/etc/schema.json' > "$work/schema.json" || continue
            rm "$work/$file"
            echo "$version" > "$work/version"
            break
        done < <(suite_apt apt-cache showsrc --only-source suricata | sed -n 's/^Version: //p' |
            grep -vE '^(1:)?[0-7]\.' | sort -rV -u)
        [ -s "$work/version" ] || die "no source package of Suricata 8 can be downloaded"
        rm -rf "$cache/apt"
        finish_parts
    fi
}

fetch_ecs() {
    what="fields of ECS"
    if begin_parts readers ecs-1; then
        need npm node tar
        (cd "$work" && npm pack --silent @elastic/ecs >&2) || die "npm cannot download @elastic/ecs"
        tar -xzf "$work"/elastic-ecs-*.tgz -C "$work"
        # As the schema's own list is written (ecs_flat.yml): a name, and below it what it is.
        node -e '
            const { EcsFlat } = require(process.argv[1] + "/package/build/commonjs/ecs_flat.js");
            for (const [name, field] of Object.entries(EcsFlat)) console.log(`${name}:\n  type: ${field.type}`);
        ' "$work" > "$work/ecs_flat.yml" || die "@elastic/ecs has no list of fields where it was"
        (cd "$work" && node -p 'require("./package/package.json").version' > version)
        rm -rf "$work/package" "$work"/*.tgz
        finish_parts
    fi
}

[ $# -gt 0 ] || each_alone python eve ecs
"fetch_$1"
echo "$parts"
