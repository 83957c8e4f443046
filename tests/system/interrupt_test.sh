#!/bin/sh
# ctrl-C ends a launch in under 2 seconds with status 130; the same command goes on and ends with the same result.
. "$(dirname "$0")/common.sh"

begin "$dir/quiet"
finish 0

begin "$dir/cut"
await grep -q "round 1/2 · generate" "$dir/cut.out"
asked=$(now)
kill -INT "$launcher"
finish 130
took=$(($(now) - asked))
[ $took -lt 2000 ] || fail "it took $took ms to end"
gone "$dir/cut" 0
grep -q "the same command goes on" "$dir/cut.out" || fail "nothing says how to resume"

begin "$dir/cut"
finish 0
same "$dir/quiet" "$dir/cut"
echo "ended in $took ms and resumed"
