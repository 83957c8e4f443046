#!/bin/sh
# A running job is attacked on its sockets: other versions, strangers, garbage, floods, hoarders, forgers. The coordinator
# lives on, the result is the quiet run's, and a peer that contradicts what is recorded is sent away with the reason.
. "$(dirname "$0")/common.sh"
peer=$JOUST_BUILD/tests/crash/hostile_peer

begin "$dir/quiet"
finish 0

# Where the coordinator of that store listens.
work() {
    "$joust" launch "$dir/job.yaml" --store "$1" --dry-run | sed -n 's/.*--connect \([^ ]*\) .*/\1/p' | head -n 1
}

attack() {
    "$peer" "$@" >>"$dir/attacks.out" 2>&1 || fail "$2: $(tail -n 4 "$dir/attacks.out")"
}

# Without a judge the job can't end under the attackers' hands.
begin "$dir/hostile" --judges 0 --set cluster.lease_ms=1000
await grep -q "warning: no judge process .*: judge 'self' waits for one" "$dir/hostile.out"
await "$joust" status --store "$dir/hostile"
endpoint=$(work "$dir/hostile")
attack "$endpoint" hoard 700
await grep -q "evaluate.greedy" "$dir/hostile.out"
for name in version stranger "bytes 20" "garbage 500" "chunks 5000" "deaf 3000" "flood 120" "absurd 60"; do
    attack "$endpoint" $name
done
lines=$(wc -l <"$dir/hostile/logs/coordinator.log")
[ "$lines" -lt 600 ] || fail "$lines lines in the coordinator's log"
kill -INT "$launcher"
finish 130
! grep -q "coordinator.*started again" "$dir/hostile.out" || fail "the coordinator died: $(cat "$dir/hostile.out")"
begin "$dir/hostile"
finish 0
same "$dir/quiet" "$dir/hostile"

begin "$dir/forged" --set rounds=60
await "$joust" status --store "$dir/forged"
endpoint=$(work "$dir/forged")
attack "$endpoint" useless
attack "$endpoint" forge 2500
kill -INT "$launcher"
finish 130
grep -q "forger is sent away: .* differs from the recorded one" "$dir/forged/logs/coordinator.log" ||
    fail "nothing says why the forger was sent away"
"$joust" store check --store "$dir/forged" >/dev/null || fail "the store isn't sound"
grep -c "lives on" "$dir/attacks.out"
