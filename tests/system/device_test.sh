#!/bin/bash
# A job whose worker and judge compute on a GPU, which is an emulated one: in float32 the same trajectories and pairs as on
# the CPU, under a numeric class of its own; in bf16 the same bytes with one worker or two. Training there: log-probs as its
# rollouts recorded them, the same bytes with two workers and after the trainer was killed.
. "$(dirname "$0")/common.sh"

export JOUST_CUDA_PLUGIN=$JOUST_BUILD/tests/engine/cuda/joust-emulated.so
cat >"$dir/device.yaml" <<END
name: device
seed: 7
rounds: 1
models:
  policy: {path: $here/../../ops/jobs/quickstart-base}
prompts:  {file: data/rounds.jsonl, per_round: 4, order: shuffle}
rollout:  {samples: 4, temperature: 1.2, max_tokens: 26, template: "<bos>{prompt}<ans>"}
judges:
  - {name: self, kind: yes-no, model: policy}
pairs:    {build: best-worst}
cluster:  {workers: 1, judges: 1, threads: 1}
END

# job STORE [OPTION ...]
job() {
    store=$1
    shift
    "$joust" launch "$dir/device.yaml" --store "$dir/$store" "$@" >"$dir/$store.out" 2>&1 || fail "$store: exit status $?"
    "$joust" trajectories list --store "$dir/$store" --json >"$dir/$store.all"
    [ "$(wc -l <"$dir/$store.all")" = 16 ] || fail "$store: not 16 trajectories"
    grep -o '"tokens":\[[^]]*\]' "$dir/$store.all" >"$dir/$store.tokens"
}
class_is() {
    "$joust" status --store "$dir/$1" --json | grep -q "\"numeric_class\":\"$2\"" || fail "$1: the class isn't $2"
}

job cpu
job f32 --set cluster.device=cuda --precision f32
class_is cpu cpu-f32-1
class_is f32 emulated-f32-1
cmp -s "$dir/cpu.tokens" "$dir/f32.tokens" || fail "float32: other tokens than the CPU's"
for store in cpu f32; do
    "$joust" pairs export --store "$dir/$store" | grep -o '"prompt":.*"rule"' >"$dir/$store.pairs"
done
cmp -s "$dir/cpu.pairs" "$dir/f32.pairs" || fail "float32: other pairs than the CPU's"
job one --device cuda
job two --device cuda --workers 2
class_is one emulated-bf16-1
cmp -s "$dir/one.all" "$dir/two.all" || fail "bf16: other bytes with two workers"

cat >"$dir/job.yaml" <<END
name: trains
seed: 7
rounds: 2
models:
  policy: {path: $here/../../ops/jobs/quickstart-base}
prompts:  {file: data/rounds.jsonl, per_round: 3, order: shuffle}
rollout:  {samples: 3, temperature: 2.5, max_tokens: 10, template: "<bos>{prompt}<ans>"}
judges:
  - {name: self, kind: yes-no, model: policy}
pairs:    {build: best-worst}
train:    {loss: dpo, learning_rate: 1e-3, batch_size: 1, max_steps: 2, save_every: 1, reference: initial}
cluster:  {workers: 1, judges: 1, threads: 1, device: cuda, heartbeat_ms: 200, lease_ms: 5000, grace_ms: 10000}
END
begin "$dir/trained"
finish 0
"$joust" rounds --store "$dir/trained" --json >"$dir/rounds"
[ "$(grep -c '"max_logp_gap":{"value":0,' "$dir/rounds")" = 2 ] || fail "a gap of log-probs: $(cat "$dir/rounds")"
[ "$(grep -c '"steps":{"value":2,' "$dir/rounds")" = 2 ] || fail "not two steps: $(cat "$dir/rounds")"
begin "$dir/killed" --workers 2
until grep -q "stage round 1 pair done" "$dir/killed/logs/coordinator.log" 2>/dev/null; do # the emulator takes its time
    kill -0 "$launcher" || fail "the launcher is gone"
    sleep 0.1
done
kill -9 $(roles "$dir/killed" worker)
finish 0
same "$dir/trained" "$dir/killed"
cmp "$dir/trained/checkpoints/policy/model.safetensors" "$dir/killed/checkpoints/policy/model.safetensors" ||
    fail "the killed job's weights differ"
