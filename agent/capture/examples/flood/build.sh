#!/bin/sh
# Builds flood.o from flood.c, as the agent's own program is built: the object is committed, so that nobody needs clang for
# the benchmarks; run this after changing the source.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
exec "$here/../../bpf/build.sh" "${1:-$here/flood.o}" "$here/flood.c"
