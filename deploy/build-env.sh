# Sourced by the Makefile: where cargo finds what it links to, and where it builds.
# RocksDB is C++ of a quarter of an hour; where the distribution's own library fits the binding it is linked instead
# (docs/adr/0003). GNOMON_BUNDLED_ROCKSDB=1 builds it from source all the same.
[ -f "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"
export PATH="$PATH:/usr/sbin:/sbin"
export CARGO_TERM_COLOR="${CARGO_TERM_COLOR:-auto}"

rocksdb_version() {
    local h=/usr/include/rocksdb/version.h
    [ -r "$h" ] || return 1
    awk '/#define ROCKSDB_MAJOR/ {a=$3} /#define ROCKSDB_MINOR/ {b=$3} END {print a * 100 + b}' "$h"
}

if [ -z "${GNOMON_BUNDLED_ROCKSDB:-}" ] && [ -z "${ROCKSDB_LIB_DIR:-}" ]; then
    version=$(rocksdb_version || echo 0)
    # 7.8 (Debian 12) to 9.x (Debian 13, Ubuntu 24.04) have every symbol the binding asks for.
    if [ "$version" -ge 708 ] && [ "$version" -lt 1000 ]; then
        ROCKSDB_LIB_DIR=$(dirname "$(ls /usr/lib/*/librocksdb.so 2> /dev/null | head -n 1)")
        export ROCKSDB_LIB_DIR
    else
        echo "note: no fitting RocksDB library installed (found version $version); building it from source takes about 15 minutes" >&2
    fi
fi
target_dir=${CARGO_TARGET_DIR:-target}
