#!/bin/sh
# device_verbs_test.sh JOUST PLUGIN MODEL: generate and score with --device cuda give what the CPU gives (the plugin is the
# emulator, in float32); without a plugin they say what to do and leave.
set -eu
joust=$1 plugin=$2 model=$3
fail() {
    echo "device_verbs_test: $1" >&2
    exit 1
}

generate="$joust generate --model $model --prompt <bos>12+34=<ans> --temperature 0 --max-tokens 6 --threads 1"
expected=$($generate)
[ -n "$expected" ] || fail "the CPU generated nothing"
got=$(JOUST_CUDA_PLUGIN=$plugin $generate --device cuda --precision f32)
[ "$got" = "$expected" ] || fail "generated \"$got\", the CPU \"$expected\""

score="$joust score --model $model --prompt <bos>12+34=<ans> --response 46 --threads 1"
expected=$($score | cut -c 1-6)
got=$(JOUST_CUDA_PLUGIN=$plugin $score --device cuda --precision f32 | cut -c 1-6)
[ "$got" = "$expected" ] || fail "scored $got, the CPU $expected"

status=0
said=$(JOUST_CUDA_PLUGIN=/nowhere.so $generate --device cuda 2>&1) || status=$?
[ $status -eq 2 ] || fail "exit status $status without a plugin, expected 2: $said"
case $said in
*"there is no /nowhere.so: build it"*) ;;
*) fail "without a plugin it said: $said" ;;
esac
