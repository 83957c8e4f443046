#!/bin/bash
# How fast the coordinator is against what ZeroMQ and RocksDB allow on this machine, at 2 KB and 50 KB a trajectory, and
# whether its memory grows with the job. Prints what tests/evidence/bench_coordinator.txt keeps.
#
#   tests/evidence/bench_coordinator.sh [--joust PROGRAM] [--repeat N] [--memory N]
#
# Rates on a machine that does other work too are low: compare figures within one table. --memory 0 leaves the last part out.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
joust=$root/build/release/joust repeat=5 memory=1000000
while [ $# -gt 0 ]; do
    case $1 in
    --joust) joust=$2 ;; --repeat) repeat=$2 ;; --memory) memory=$2 ;;
    *) echo "usage: $0 [--joust PROGRAM] [--repeat N] [--memory N]" >&2; exit 2 ;;
    esac
    shift 2
done

echo "date      $(date -u +%Y-%m-%dT%H:%MZ)"
echo "commit    $(git -C "$root" rev-parse --short HEAD)"
echo "machine   $(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2 | sed 's/^ *//'), $(nproc) processors"
echo "load      $(cut -d' ' -f1-3 /proc/loadavg) at the start"
echo
"$joust" bench coordinator --repeat "$repeat" --bytes 2048 --trajectories 65536
echo
"$joust" bench coordinator --repeat "$repeat" --bytes 51200 --trajectories 8192 --window 32
if [ "$memory" -gt 0 ]; then
    echo
    for ((i = 0; i < repeat; i++)); do
        "$joust" bench coordinator --memory --trajectories "$memory"
    done
fi
echo
echo "load      $(cut -d' ' -f1-3 /proc/loadavg) at the end"
