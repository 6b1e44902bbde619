#!/bin/sh
# Builds flood.o from flood.c, as bpf/build.sh does for the agent's own program: the object is committed, so that nobody needs
# clang for the benchmarks; run this after changing the source. Made by clang 14 (Debian 12).
set -eu
out=${1:-$(dirname "$0")/flood.o}
case $out in /*) ;; *) out=$PWD/$out ;; esac
cd "$(dirname "$0")"
clang=${CLANG:-clang}
# BTF (from -g) describes the maps; the DWARF beside it is of no use to the kernel, and its paths would not reproduce.
"$clang" -target bpf -mcpu=v3 -O2 -g -Wall -Werror -fdebug-compilation-dir=. -fno-ident -c flood.c -o "$out.tmp"
strip=$("$clang" -print-prog-name=llvm-strip)
"$strip" -g "$out.tmp"
mv "$out.tmp" "$out"
