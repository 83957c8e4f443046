#!/bin/sh
# The quickstart's starting checkpoint, made in two steps a stage: all but the weights' values must be what ships. (With all
# steps the weights are too: tests/evidence/quickstart_table.sh.)
. "$(dirname "$0")/common.sh"
jobs=$here/../../ops/jobs

"$joust" launch "$jobs/quickstart-base.yaml" --store "$dir/base" --set models.policy.path="$dir/data" \
    --set stages[0].train.data="$dir/data/base-steps.jsonl" --set stages[1].train.data="$dir/data/base-problems.jsonl" \
    --set stages[0].train.max_steps=2 --set stages[1].train.max_steps=2 \
    --set stages[0].train.batch_size=2 --set stages[1].train.batch_size=2 >"$dir/base.out" 2>&1 || fail "launch"
for file in config.json tokenizer.json; do
    cmp "$dir/base/checkpoints/policy/$file" "$jobs/quickstart-base/$file" || fail "$file is not the one that ships"
done
[ "$(ls "$dir/base/checkpoints/policy")" = "$(ls "$jobs/quickstart-base")" ] || fail "other files: $(ls "$dir/base/checkpoints/policy")"
# Names, shapes and places of the tensors stand before their values.
header() {
    head -c 2000 "$1/model.safetensors" | tr -d '\0' | sed 's/}}.*//' | head -n 1
}
[ "$(header "$dir/base/checkpoints/policy")" = "$(header "$jobs/quickstart-base")" ] || fail "other tensors"
