#!/bin/sh
# A job that decides no group: it fails, and launch, rounds and status say why and what didn't happen.
. "$(dirname "$0")/common.sh"

begin "$dir/floor" --set pairs.min_chosen=1000
finish 1
for round in 1 2; do
    [ "$(grep -c "^warning: round $round pair: 24 of 24 groups gave no pair: .*; no reward reached pairs.min_chosen 1000; the largest was " "$dir/floor.out")" = 1 ] ||
        fail "round $round: $(cat "$dir/floor.out")"
done
grep -q "^[0-9]* warnings, in $dir/floor/logs/coordinator.log" "$dir/floor.out" || fail "no number of warnings"
"$joust" rounds --store "$dir/floor" >"$dir/rounds" || fail "rounds"
[ "$(grep -c -- ' -        v0 ' "$dir/rounds")" = 2 ] || fail "an empty round was promoted: $(cat "$dir/rounds")"
grep -q "^ *0 .* yes      v0 " "$dir/rounds" || fail "round 0: $(cat "$dir/rounds")"
status=0
"$joust" status --store "$dir/floor" --json >"$dir/status" || status=$?
[ $status = 1 ] && grep -q '"phase":"failed","round":2,"rounds":2,' "$dir/status" ||
    fail "status $status of a failed job: $(cat "$dir/status")"
"$joust" sim --seeds 0 2>"$dir/refused" && fail "a simulation of nothing found nothing"
grep -q -e "--seeds: expected 1 or more" "$dir/refused" || fail "--seeds 0: $(cat "$dir/refused")"
