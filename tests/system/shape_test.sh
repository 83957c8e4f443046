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

# A pair explains itself: its whole group with rewards, its answers token by token, the steps that trained on it.
id=$("$joust" pairs list --store "$dir/one" --limit 1 | awk 'NR == 2 { print $1 }')
"$joust" pairs show "$id" --store "$dir/one" >"$dir/shown"
awk '
    /^chosen r/ { sub(",", "", $4); reward = $4; of_sides++; want[1] = $NF }
    /^rejected r/ { of_sides++; want[2] = $NF }
    /^group: 4 samples/ { in_group = 1; next }
    in_group && /^  r/ { n++; if ($2 == "chosen") { chosen = $3 } else if ($2 == "rejected") rejected = $3 }
    /^chosen, token/ { in_group = 0; side = 1; next }
    /^rejected, token/ { side = 2; next }
    side && NF == 4 { sum[side] += $3 }
    /^trained on in/ { side = 0; steps = $4 }
    /^  round/ { listed++ }
    function close_to(a, b) { return a - b < 0.001 && b - a < 0.001 }
    END { exit !(of_sides == 2 && n == 4 && chosen == reward && chosen > rejected && close_to(sum[1], want[1]) &&
                 close_to(sum[2], want[2]) && steps > 0 && listed == steps) }' "$dir/shown" || fail "pairs show: $(cat "$dir/shown")"
"$joust" pairs show "$id" --store "$dir/one" --json >"$dir/shown.json"
steps=$(sed -n 's/^trained on in \([0-9]*\) step.*/\1/p' "$dir/shown")
grep -q "\"group\":\[{\"id\".*\"sample\":3,.*\"n_steps\":$steps,\"steps\":\[{\"round\":1,.*\"loss\":.*}\]}\$" "$dir/shown.json" ||
    fail "pairs show --json: $(cat "$dir/shown.json")"
