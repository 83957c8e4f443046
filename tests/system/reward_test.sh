#!/bin/sh
# A reward model, a lineage with a scalar head, is trained on the policy's pairs: the same bytes with other numbers of
# workers and threads, and a checkpoint that gives scores; what doesn't fit is refused by name.
. "$(dirname "$0")/common.sh"
mkdir "$dir/reward"
cp "$dir/data/tokenizer.json" "$dir/reward"
sed -e 's/LlamaForCausalLM/LlamaForSequenceClassification/' -e 's/"tie_word_embeddings": true/"tie_word_embeddings": false/' \
    -e 's/^{/{"id2label": {"0": "LABEL_0"},/' "$dir/data/config.json" >"$dir/reward/config.json"
sed -i -e '/^promote:/d' -e '/^evaluate:/d' -e '/^train:/d' -e 's/^  policy: .*/&\n  reward: {path: reward, init: 9}/' \
    -e 's/per_round: 24/per_round: 16/' "$dir/job.yaml"
cat >>"$dir/job.yaml" <<'STAGES'
stages:
  - generate
  - judge
  - pair
  - {train: {loss: bradley_terry, model: reward, learning_rate: 3e-4, batch_size: 4, max_steps: 8, save_every: 3}}
STAGES

begin "$dir/one" --workers 1 --judges 1 --threads 1
finish 0
begin "$dir/many" --workers 2 --judges 2 --threads 2
finish 0
same "$dir/one" "$dir/many"
for file in config.json model.safetensors tokenizer.json; do
    cmp "$dir/one/checkpoints/reward/$file" "$dir/many/checkpoints/reward/$file" || fail "$file differs"
done
"$joust" score --model "$dir/one/checkpoints/reward" --prompt "<bos>12+30<ans>" --response "42" >"$dir/score" ||
    fail "no score: $(cat "$dir/score")"

# refused_job TEXT EDIT: launch says TEXT of the job changed so.
refused_job() {
    sed "$2" "$dir/job.yaml" >"$dir/other.yaml"
    status=0
    "$joust" launch "$dir/other.yaml" --store "$dir/other" >"$dir/refused" 2>&1 || status=$?
    [ $status = 2 ] || fail "$2: status $status: $(cat "$dir/refused")"
    grep -q -F -e "$1" "$dir/refused" || fail "$2: no '$1' in: $(cat "$dir/refused")"
}
refused_job "the loss bradley_terry trains a scalar head, and LlamaForCausalLM has none" 's/model: reward/model: policy/'
refused_job "has a scalar head: nothing of a job can generate" 's/loss: bradley_terry/loss: dpo/'
refused_job "sft_weight: has no effect on the loss margin" 's/loss: bradley_terry/loss: margin, sft_weight: 1/'
refused_job "an adapter beside a scalar head isn't supported" 's/batch_size: 4/batch_size: 4, lora: {}/'
sed -i 's/"version"/"version" /' "$dir/reward/tokenizer.json"
refused_job "its tokenizer.json isn't that of 'policy'" 's/x/x/'
