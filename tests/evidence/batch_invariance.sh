#!/bin/bash
# Batch invariance over 4,096 tokens on the CPU: one request of two samples alone, after a prefix hit, with 64 strangers, in
# another order, in so little memory that sequences give way to each other, with 1, 2 and 3 threads, and scored at once.
# Prints a digest of tokens, raw and processed log-probabilities of each, and tokens a second: the price of each company.
# A random model of 3 layers.
#
#   tests/evidence/batch_invariance.sh [--build DIR] > tests/evidence/batch_invariance.txt
#
# Exit status 1 if a bit differs or memory exceeds its budget.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
build=$root/build/release
[ "${1:-}" != --build ] || build=$2
cmake --build "$build" --target engine_invariance >&2
echo "batch_invariance, $(date -u +%Y-%m-%d), $(git -C "$root" rev-parse --short HEAD), $(nproc) x $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1), load $(cut -d' ' -f1 /proc/loadavg)"
out=$("$build/tests/engine/compute/engine_invariance")
echo "$out"
n=$(echo "$out" | grep 'tokens/s  computed' | sed 's/^.\{23\}//' | cut -d' ' -f1,2 | sort -u | wc -l)
if [ "$n" = 1 ] && echo "$out" | grep -q 'equal bits' && echo "$out" | grep -q '(kept)'; then
    echo "equal bits in all $(echo "$out" | grep -c 'tokens/s  computed') runs and in scoring; memory within its budget"
else
    echo "NOT EQUAL, or memory beyond its budget"
    exit 1
fi
