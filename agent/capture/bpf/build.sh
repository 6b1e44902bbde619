#!/bin/sh
# Builds gnomon_xdp.o from gnomon_xdp.c. The object is committed, so that nobody needs clang to build the agent; run this
# after changing the source. `build.sh OUT` writes elsewhere, which is how a test checks that the two belong together;
# `build.sh OUT SOURCE` builds another program.
# The committed object is made by clang 14 (Debian 12): other versions give other, equally good bytes.
set -eu
out=${1:-$(dirname "$0")/gnomon_xdp.o}
case $out in /*) ;; *) out=$PWD/$out ;; esac
source=${2:-$(dirname "$0")/gnomon_xdp.c}
cd "$(dirname "$source")"
clang=${CLANG:-clang}
# BTF (from -g) describes the maps; the DWARF beside it is of no use to the kernel, and its paths would not reproduce.
"$clang" -target bpf -mcpu=v3 -O2 -g -Wall -Werror -fdebug-compilation-dir=. -fno-ident -c "$(basename "$source")" -o "$out.tmp"
strip=$("$clang" -print-prog-name=llvm-strip)
"$strip" -g "$out.tmp"
mv "$out.tmp" "$out"
