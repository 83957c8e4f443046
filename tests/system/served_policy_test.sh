#!/bin/sh
# Policy losses on what servers drew: the trainer's own log-probs at the round's start are the old ones, and weights are the
# quotient to the server's. Of a server with the engine's own numbers they are 1; of one that is off they are counted, truncated
# and shown, by token and by answer. A server without token ids is refused, and what mends it is said.
. "$(dirname "$0")/common.sh"
base=$here/../../ops/jobs/quickstart-base

# job SERVER-OPTIONS TOLERANCE
job() {
    cat >"$dir/job.yaml" <<END
name: served-policy
seed: 11
rounds: 1
models:
  policy:
    path: $base
    serve:
      command: "exec $JOUST_BUILD/engine_server --port {port} --name {name} --model {model} $1"
      tolerance: $2
prompts: {file: data/rounds.jsonl, per_round: 16, order: shuffle}
rollout: {samples: 4, temperature: 1.0, max_tokens: 20, template: "<bos>{prompt}<ans>"}
judges:
  - {name: exact, kind: rule, rule: steps-and-number}
train: {loss: grpo, learning_rate: 1e-4, batch_size: 8, max_steps: 8, save_every: 3}
cluster: {workers: 1, judges: 1, threads: 1, heartbeat_ms: 200, lease_ms: 20000, grace_ms: 20000}
END
}

# figure STORE NAME: its value
figure() {
    "$joust" rounds --store "$1" --json | grep -o "\"$2\":{\"value\":[^,]*" | sed 's/.*://'
}

# holds EXPRESSION
holds() {
    awk "BEGIN { exit !($1) }" || fail "not so: $1"
}

job "" 0.001
begin "$dir/exact"
finish 0
for name in mean_importance max_importance; do
    [ "$(figure "$dir/exact" $name)" = 1 ] || fail "$name of the engine's own numbers: $(figure "$dir/exact" $name)"
done
[ "$(figure "$dir/exact" truncated_importance)" = 0 ] || fail "weights of 1 were truncated"
"$joust" rounds --store "$dir/exact" | grep -q "importance *largest *truncated" || fail "rounds: $("$joust" rounds --store "$dir/exact")"

job "--off 0.9" 1.5
begin "$dir/off"
finish 0
holds "$(figure "$dir/off" mean_importance) > 1.05 && $(figure "$dir/off" max_importance) > 2.4 && $(figure "$dir/off" max_importance) < 2.5"
holds "$(figure "$dir/off" truncated_importance) > 0.3 && $(figure "$dir/off" truncated_importance) < 0.7"
cmp -s "$dir/exact/checkpoints/policy/model.safetensors" "$dir/off/checkpoints/policy/model.safetensors" &&
    fail "the weights of what the server drew change nothing"

set_train loss=gspo importance_cap=1.2
begin "$dir/whole"
finish 0
[ "$("$joust" rounds --store "$dir/whole" --json | grep -o '"mean_importance":{[^}]*"n":64}' | wc -l)" = 1 ] ||
    fail "gspo weighs answers: $("$joust" rounds --store "$dir/whole" --json | grep -o '"mean_importance":{[^}]*}')"

SETS=""
job "--no-ids" 0.001
begin "$dir/bare"
finish 1
grep -q "gives no token ids with log-probs.*without serve the built-in engine answers" "$dir"/bare/logs/*.log || fail "what is missing isn't said"

# What the built-in engine's rollouts take of length is taken here too: its prompts are cut alike, and answers are as long.
job "" 0.001
sed -i -e 's/max_tokens: 20,/max_tokens: 20, min_tokens: 18, repetition_penalty: 1.1, long_prompts: cut, max_prompt_tokens: 9,/' \
    -e '/^train:/d' -e 's/{name: exact, .*}/{name: coin, kind: random}/' "$dir/job.yaml"
status=0
"$joust" validate "$dir/job.yaml" >"$dir/refused" 2>&1 || status=$?
[ $status = 2 ] || fail "min_tokens of a server of any kind: status $status"
grep -q "rollout.min_tokens: 'policy' is served by servers that aren't known to take it" "$dir/refused" || fail "$(cat "$dir/refused")"
sed -i -e 's/      tolerance: 0.001/&\n      endpoint: {server: vllm}/' "$dir/job.yaml"
SETS=""
begin "$dir/cut"
finish 0
"$joust" trajectories export --store "$dir/cut" >"$dir/cut.served" || fail "export"
sed -e '/serve:/,/endpoint:/d' "$dir/job.yaml" >"$dir/own.yaml"
cp "$dir/own.yaml" "$dir/job.yaml"
begin "$dir/own"
finish 0
"$joust" trajectories export --store "$dir/own" >"$dir/cut.own" || fail "export"
for of in served own; do
    grep -o '"prompt_tokens":\[[0-9,]*\]' "$dir/cut.$of" >"$dir/prompts.$of"
    grep -o '"n_cut":[0-9]*' "$dir/cut.$of" >"$dir/counts.$of" || fail "nothing was cut in $of"
done
[ -s "$dir/prompts.own" ] || fail "no prompts: $(head -1 "$dir/cut.own")"
cmp "$dir/prompts.own" "$dir/prompts.served" || fail "prompts are cut otherwise"
cmp "$dir/counts.own" "$dir/counts.served" || fail "what was cut is counted otherwise"
grep -o '"tokens":\[[0-9,]*\]' "$dir/cut.served" | awk -F, 'NF < 18 { exit 1 }' || fail "an answer is shorter than min_tokens"
