#!/bin/sh
# The result doesn't depend on the number of processes, of threads, or on the instruction set.
. "$(dirname "$0")/common.sh"

begin "$dir/one" --workers 1 --judges 1 --threads 1
finish 0
begin "$dir/many" --workers 3 --judges 2 --threads 1
finish 0
same "$dir/one" "$dir/many"
begin "$dir/threads" --workers 1 --judges 1 --threads 2
finish 0
same "$dir/one" "$dir/threads"
for isa in portable avx2 avx512; do
    if [ $isa != portable ] && ! grep -q " $isa" /proc/cpuinfo; then
        echo "$isa: this processor lacks it"
        continue
    fi
    export JOUST_ISA=$isa
    begin "$dir/$isa" --workers 1 --judges 1
    finish 0
    same "$dir/one" "$dir/$isa"
done
cat "$dir/one.digests"
