#!/bin/bash
# A job whose workers and judges keep their weights in bf16 is of a numeric class of its own: the same bytes whatever the
# number of workers and the instruction set, the trainer's log-probabilities those that rollouts recorded; who computes in
# float32 isn't let in: a launch that would go on in another precision ends at once and names both, and a judge that was there
# first doesn't set the class.
. "$(dirname "$0")/common.sh"

class_is() { # STORE CLASS
    "$joust" status --store "$1" --json | grep -q "\"numeric_class\":\"$2\"" || fail "$1: the class isn't $2"
}

begin "$dir/f32"
finish 0
class_is "$dir/f32" cpu-f32-1
begin "$dir/one" --set cluster.precision=bf16
finish 0
class_is "$dir/one" cpu-bf16-1
[ "$("$joust" rounds --store "$dir/one" --json | grep -c '"max_logp_gap":{"value":0,')" = 2 ] || fail "a gap of log-probs"
export JOUST_ISA=portable
begin "$dir/two" --precision bf16 --workers 3 --judges 2
finish 0
unset JOUST_ISA
same "$dir/one" "$dir/two"
cmp -s "$dir/one.digests" <(result "$dir/f32") && fail "bf16 gives what float32 gives"

# resumed STORE CLASS ASKED OPTION ...: a resume that would compute in another class ends at once.
resumed() {
    resumed_store=$1 class=$2 asked=$3
    shift 3
    : >"$resumed_store.out"
    begin "$resumed_store" --set rounds=3 "$@"
    finish 2
    grep -q "were computed in class $class, and it was to go on in another ($asked)" "$resumed_store.out" ||
        fail "not both classes: $(cat "$resumed_store.out")"
    grep -q "the same command\|started again" "$resumed_store.out" && fail "$resumed_store: misleading: $(cat "$resumed_store.out")"
    true
}
resumed "$dir/f32" cpu-f32-1 "cpu, bf16" --precision bf16
resumed "$dir/one" cpu-bf16-1 "cpu, f32"

# A judge by hand, there before the job and in another precision: told so, and the job is of its worker's class.
work=ipc://$dir/first.work
"$joust" coordinator "$dir/job.yaml" --store "$dir/first" --listen "$work" \
    --status "ipc://$dir/first.status" >"$dir/first.out" 2>&1 &
others=$!
await test -S "$dir/first.work"
status=0
"$joust" judge --connect "$work" --name early --precision bf16 --threads 1 --cache "$dir/early" >"$dir/early.out" 2>&1 &
judge=$!
others="$others $judge"
knows_early() {
    "$joust" status --connect "ipc://$dir/first.status" | grep -q early
}
await knows_early
"$joust" worker --connect "$work" --name worker --threads 1 --cache "$dir/cache" >"$dir/worker.out" 2>&1 &
others="$others $!"
wait "$judge" || status=$?
[ $status = 2 ] || fail "the early judge ended with $status: $(cat "$dir/early.out")"
grep -q "early computes in class cpu-bf16-1, but the job's records are of class cpu-f32-1" "$dir/early.out" ||
    fail "the early judge wasn't told why: $(cat "$dir/early.out")"
kill $others 2>/dev/null || true
wait
others=""
