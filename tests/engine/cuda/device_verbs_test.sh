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

# What a GPU needs is said without plugin and GPU: parts that add up, less in bf16, less of an adapter, more of a batch.
info() {
    JOUST_CUDA_PLUGIN=/nowhere.so $joust model info $model --json --device cuda "$@"
}
part() { # NAME JSON
    echo "$2" | sed "s/.*\"gpu_memory\":.*\"$1\":\([0-9]*\).*/\1/"
}
bf16=$(info) f32=$(info --precision f32) rank=$(info --lora-rank 4) batch=$(info --batch-size 64)
few=$(info --sequences 8) again=$(info --gradient-checkpointing)
sum=$(($(part weights "$bf16") + $(part adapter "$bf16") + $(part cache "$bf16") + $(part pass "$bf16")))
[ "$(part rollout "$bf16")" -eq $sum ] || fail "a rollout isn't the sum of its parts: $bf16"
[ "$(part weights "$bf16")" -lt "$(part weights "$f32")" ] || fail "weights in bf16 aren't less: $bf16 $f32"
[ "$(part optimizer "$rank")" -lt "$(part optimizer "$bf16")" ] || fail "an adapter's moments aren't less: $rank"
[ "$(part gradients "$batch")" -gt "$(part gradients "$bf16")" ] || fail "a batch of 64 needs no more: $batch"
[ "$(part pass "$few")" -lt "$(part pass "$bf16")" ] || fail "eight sequences need as much as 512: $few"
[ "$(part activations "$again")" -lt "$(part activations "$bf16")" ] || fail "checkpointing saves nothing: $again"
JOUST_CUDA_PLUGIN=/nowhere.so $joust model info $model --device cuda | grep -q "^GPU memory .* bf16$" ||
    fail "the page doesn't say what a GPU needs"

# A budget of resident memory isn't a GPU's.
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
echo '{"prompt": "12+34=", "reference": "46"}' >"$dir/prompts.jsonl"
cat >"$dir/job.yaml" <<JOB
name: budget
models: {policy: {path: "$model"}}
prompts: {file: prompts.jsonl}
rollout: {template: "<bos>{prompt}<ans>", samples: 2, max_tokens: 6}
judges: [{name: right, kind: rule, rule: final-number}]
rounds: 1
cluster: {device: cuda, memory_mb: 4000}
JOB
status=0
said=$(JOUST_CUDA_PLUGIN=$plugin $joust validate "$dir/job.yaml" 2>&1) || status=$?
[ $status -eq 2 ] || fail "exit status $status of a memory budget with a GPU, expected 2: $said"
case $said in
*"cluster.kv_memory_mb bounds keys and values on a GPU"*) ;;
*) fail "of a memory budget with a GPU it said: $said" ;;
esac

status=0
said=$(JOUST_CUDA_PLUGIN=/nowhere.so $generate --device cuda 2>&1) || status=$?
[ $status -eq 2 ] || fail "exit status $status without a plugin, expected 2: $said"
case $said in
*"there is no /nowhere.so: build it"*) ;;
*) fail "without a plugin it said: $said" ;;
esac
