#!/bin/sh
# shape_test.sh [ISA ...]: the result doesn't depend on the number of processes, of threads, or on the instruction set
# (avx2 unless others are named; portable takes longer).
[ $# -gt 0 ] || set -- avx2
. "$(dirname "$0")/common.sh"

begin "$dir/one" --workers 1 --judges 1 --threads 1
finish 0
begin "$dir/many" --workers 3 --judges 2 --threads 1
finish 0
same "$dir/one" "$dir/many"
begin "$dir/threads" --workers 1 --judges 1 --threads 2
finish 0
same "$dir/one" "$dir/threads"
for isa; do
    if [ $isa != portable ] && ! grep -q " $isa" /proc/cpuinfo; then
        echo "$isa: this processor lacks it"
        continue
    fi
    export JOUST_ISA=$isa
    begin "$dir/$isa" --workers 1 --judges 1 --set cluster.lease_ms=600000
    finish 0
    same "$dir/one" "$dir/$isa"
done
cat "$dir/one.digests"
