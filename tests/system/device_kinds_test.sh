#!/bin/bash
# Kinds of jobs on a GPU, which is an emulated one: an adapter, whose reference is the base beside it, and PPO, whose critic is
# read and trained there, too; log-probs are their rollouts'. What the kernels don't take is refused before anything begins.
. "$(dirname "$0")/common.sh"

export JOUST_CUDA_PLUGIN=$JOUST_BUILD/tests/engine/cuda/joust-emulated.so
cat >"$dir/job.yaml" <<END
name: kinds
seed: 7
rounds: 1
models:
  policy: {path: $here/../../ops/jobs/quickstart-base}
prompts:  {file: data/rounds.jsonl, per_round: 2, order: shuffle}
rollout:  {samples: 3, temperature: 2.5, max_tokens: 6, template: "<bos>{prompt}<ans>"}
judges:
  - {name: self, kind: yes-no, model: policy}
pairs:    {build: best-worst}
train:    {loss: dpo, learning_rate: 1e-3, batch_size: 1, max_steps: 2, reference: initial, lora: {rank: 4}}
cluster:  {workers: 1, judges: 1, threads: 1, device: cuda}
END
base=$here/../../ops/jobs/quickstart-base/model.safetensors
sed -e 's/^train:.*/train: {loss: ppo, learning_rate: 1e-3, batch_size: 4, max_steps: 2, reference: initial}/' \
    -e '/^pairs:/d' "$dir/job.yaml" >"$dir/ppo.yaml"

# run NAME FILE [OPTION ...]: one round, without a gap.
run() {
    name=$1 file=$2
    shift 2
    "$joust" launch "$dir/$file" --store "$dir/$name" "$@" >"$dir/$name.out" 2>&1 || fail "$name: exit status $?"
    "$joust" rounds --store "$dir/$name" --json >"$dir/$name.rounds"
    grep -q '"max_logp_gap":{"value":0,' "$dir/$name.rounds" || fail "$name: a gap: $(cat "$dir/$name.rounds")"
    grep -q '"steps":{"value":2,' "$dir/$name.rounds" || fail "$name: not two steps: $(cat "$dir/$name.rounds")"
}

run lora job.yaml
cmp "$dir/lora/checkpoints/policy/model.safetensors" "$base" || fail "lora: another base"
[ -s "$dir/lora/checkpoints/policy/adapter_model.safetensors" ] || fail "lora: no adapter was written"
run ppo ppo.yaml --precision f32
grep -q '"value_loss":{"value":[0-9]' "$dir/ppo.rounds" || fail "ppo: no critic was read: $(cat "$dir/ppo.rounds")"

# refused KEY WORDS [OPTION ...]: validate and launch name the key and the words.
refused() {
    key=$1 words=$2
    shift 2
    for verb in validate launch; do
        status=0
        "$joust" $verb "$dir/job.yaml" "$@" >"$dir/said" 2>&1 || status=$?
        [ $status = 2 ] || fail "$verb: exit status $status: $(cat "$dir/said")"
        grep -q "$key.*$words" "$dir/said" || fail "$verb: $(cat "$dir/said")"
    done
}
wide=$dir/wide
mkdir "$wide"
cp "$(dirname "$base")"/* "$wide"
sed -e 's/"head_dim": *[0-9]*/"head_dim": 512/' "$(dirname "$base")/config.json" >"$wide/config.json"
grep -q '"head_dim": 512' "$wide/config.json" || fail "the base has no head_dim to change"
refused models.policy "heads of 512" --set models.policy.path="$wide"
sed -e 's/"max_position_embeddings": *[0-9]*/"max_position_embeddings": 99999/' "$(dirname "$base")/config.json" >"$wide/config.json"
grep -q '"max_position_embeddings": 99999' "$wide/config.json" || fail "the base has no context to change"
refused cluster "a training row of up to [0-9]* tokens, at most 65535" --set models.policy.path="$wide" \
    --set rollout.max_tokens=40000
"$joust" validate "$dir/job.yaml" --set models.policy.path="$wide" >"$dir/said" 2>&1 || fail "short answers: $(cat "$dir/said")"
"$joust" validate "$dir/job.yaml" --set models.policy.path="$wide" --set rollout.max_tokens=40000 --set cluster.device=cpu \
    >"$dir/said" 2>&1 || fail "on a CPU: $(cat "$dir/said")"
