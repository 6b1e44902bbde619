#!/usr/bin/env bash
# Usage: bench-store.sh STORE_BENCH ROWS. Makes a store of ROWS records and asks it questions. With PEERS=1 the same rows go into
# ClickHouse (as chDB) and DuckDB, on this machine and after each other, and the figures are printed beside each other.
# WHEELS names a directory of wheels to take them from; without it pip fetches them. Nothing stays behind but the figures,
# where FIGURES names a directory for them. With PACED=SECONDS the last records come in at 100,000 a second while searches are asked.
# The store is made under TMPDIR; what it will take is said, and refused where there is no room.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
bench=$1 rows=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
figures=${FIGURES:-$work/figures}
mkdir -p "$figures"

"$bench" "$work/gnomon" "$rows" --figures "$figures/gnomon.tsv" ${PACED:+--paced "$PACED"}
# Once more, from the disk and as after a crash: how long an open takes, and what records take when it has emptied the log.
"$bench" "$work/gnomon" "$rows" --only nothing --figures "$work/opened.tsv" > "$work/opened.log"
cat "$work/opened.tsv" >> "$figures/gnomon.tsv"
grep -E '^(open|size):' "$work/opened.log"
rm -rf "$work/gnomon"
if [ -z "${PEERS:-}" ]; then
    exit 0
fi

skipped() {
    echo "== SKIPPED $1: $2. Nothing is said of how gnomon compares with it." >&2
}

declare -A package=([clickhouse]="chdb pyarrow" [duckdb]=duckdb)
tables=("$figures/gnomon.tsv")
"$bench" "$work" "$rows" --csv "$work/rows.csv"
for store in clickhouse duckdb; do
    if ! python3 -m venv "$work/$store-venv"; then
        skipped "$store" "python3 cannot make a virtual environment"
        continue
    fi
    # shellcheck disable=SC2086
    if ! "$work/$store-venv/bin/pip" install --quiet --disable-pip-version-check ${WHEELS:+--find-links "$WHEELS"} ${package[$store]} > "$work/pip.log" 2>&1; then
        tail -n 3 "$work/pip.log" >&2
        skipped "$store" "its package cannot be had"
        continue
    fi
    mkdir "$work/$store"
    if ! "$work/$store-venv/bin/python" "$here/bench-peers.py" load "$store" "$work/rows.csv" "$work/$store" "$figures/$store.tsv"; then
        skipped "$store" "it failed, see above"
        continue
    fi
    rm -rf "${work:?}/$store" "$work/$store-venv"
    tables+=("$figures/$store.tsv")
done
python3 "$here/bench-peers.py" table "${tables[@]}"
