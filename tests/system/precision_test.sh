#!/bin/bash
# A job whose workers and judges keep their weights in bf16 is of a numeric class of its own: the same bytes whatever the
# number of workers and the instruction set, the trainer's log-probabilities those that rollouts recorded; who computes in
# float32 isn't let in.
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
true
