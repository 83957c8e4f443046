#!/bin/sh
# PPO from a job file through launch: policy and critic are versioned, stored and resumed alike; the same bytes with other numbers of
# workers and threads, and after whoever trained was killed in mid-stage. What the critic doesn't take is refused at its key.
. "$(dirname "$0")/common.sh"
sed -i -e '/^promote:/d' -e '/^evaluate:/d' -e '/^pairs:/d' -e 's/^rollout:  {samples: 4/rollout:  {samples: 2/' \
    -e 's/^train: .*/train: {loss: ppo, kl_weight: 0.05, reference: initial, learning_rate: 1e-3, batch_size: 12, max_steps: 16, save_every: 2, critic: {gamma: 0.99, learning_rate: 2e-3}}/' \
    "$dir/job.yaml"
KINDS="trajectories verdicts"

rounds() {
    "$joust" rounds --store "$1" --json
}

# weights A B: both lineages ended as the same bytes.
weights() {
    for model in policy critic; do
        cmp "$1/checkpoints/$model/model.safetensors" "$2/checkpoints/$model/model.safetensors" ||
            fail "$2: the weights of the $model differ"
    done
}

begin "$dir/one" --workers 1 --judges 1 --threads 1
finish 0
[ "$(rounds "$dir/one" | grep -c '"max_logp_gap":{"value":0,')" = 2 ] || fail "a gap of log-probs: $(rounds "$dir/one")"
[ "$(rounds "$dir/one" | grep -c '"value_loss":.*"explained_variance":')" = 2 ] || fail "no critic: $(rounds "$dir/one")"
"$joust" rounds --store "$dir/one" | grep -q "value loss  explained" || fail "rounds: $("$joust" rounds --store "$dir/one")"
grep -q ForSequenceClassification "$dir/one/checkpoints/critic/config.json" || fail "the critic has no scalar head"

# What the critic gave each token that round 1 trained on is recorded: whitened, over all of them mean 0 and deviation 1.
credits() { # STORE
    "$joust" trajectories list --store "$1" --round 1 --json | sed 's/.*"id":"\([^"]*\)".*/\1/' >"$1.ids"
    while read -r id; do
        "$joust" trajectories show "$id" --store "$1" --json | grep -o '"id":"[^"]*"\|"credit":[[][^]]*\]\|"returns":[[][^]]*\]'
    done <"$1.ids" >"$1.credit"
}
credits "$dir/one"
[ -s "$dir/one.ids" ] || fail "no answers"
sed -n 's/^"credit":\[\(.*\)\]/\1/p' "$dir/one.credit" | tr ',' '\n' |
    awk '{ n++; sum += $1; size += $1 * $1 } END { exit !(n > 100 && sum / n < 1e-4 && sum / n > -1e-4 && size / n > 0.9 && size / n < 1.1) }' ||
    fail "the advantages aren't whitened: $(head -c 600 "$dir/one.credit")"
sed -n 's/^"returns":\[\(.*\)\]/\1/p' "$dir/one.credit" | tr ',' '\n' | awk '{ n++; size += $1 * $1 } END { exit !(n > 100 && size > 1) }' ||
    fail "no returns"
"$joust" trajectories show "$(head -n 1 "$dir/one.ids")" --store "$dir/one" >"$dir/shown"
grep -q "ppo's advantage; return" "$dir/shown" || fail "show: $(cat "$dir/shown")"

begin "$dir/many" --workers 3 --judges 2 --threads 2
finish 0
same "$dir/one" "$dir/many"
weights "$dir/one" "$dir/many"

# Both TRAIN stages are under way when every worker dies, at several instants of them.
begin "$dir/killed" --workers 2 --judges 1
await grep -q "stage round 1 group done" "$dir/killed/logs/coordinator.log"
for i in 1 2 3; do
    sleep 0.15
    victims=$(roles "$dir/killed" worker)
    [ -z "$victims" ] || kill -9 $victims 2>/dev/null || true
done
await grep -q "stage round 2 group done" "$dir/killed/logs/coordinator.log"
kill -9 $(roles "$dir/killed" coordinator) 2>/dev/null || true
finish 0
same "$dir/one" "$dir/killed"
credits "$dir/killed"
cmp "$dir/one.credit" "$dir/killed.credit" || fail "the credit differs after kills"
weights "$dir/one" "$dir/killed"

# Without the divergence in the reward, and without whitening, other policies are learnt; a critic of one's own is taken as it is.
set_train critic.kl_in_reward=false max_steps=2
begin "$dir/in_loss" --workers 1 --judges 1 --set rounds=1
finish 0
cp -r "$dir/in_loss/checkpoints/critic" "$dir/my-critic"
sed -i 's/^  policy: .*/&\n  mine: {path: my-critic}/' "$dir/job.yaml"
set_train critic.model=mine max_steps=2
begin "$dir/named" --workers 1 --judges 1 --set rounds=1
finish 0
[ -s "$dir/named/checkpoints/mine/model.safetensors" ] || fail "the named critic wasn't trained"
cmp -s "$dir/my-critic/model.safetensors" "$dir/named/checkpoints/mine/model.safetensors" && fail "the named critic stayed as it was"

refused "train.critic: is of the loss ppo" loss=grpo
refused "train.critic.model: 'policy' is the policy" critic.model=policy
refused "train.critic.model: 'nobody' isn't one of models" critic.model=nobody
refused "train.reference: in the reward" reference=round-start
refused "train.dynamic_sampling: ppo takes no advantage from a group" dynamic_sampling=true
refused "train.importance_cap: weighs what servers drew" importance_cap=3
refused "train.critic.lambda: expected a number" critic.lambda=1.5
refused "train.beta: has no effect on the loss ppo" beta=5
refused "train.sft_weight: has no effect on the loss ppo" sft_weight=3
refused "train.kl: in the reward it is the log-ratio itself" kl=k1
sed -i 's/"max_position_embeddings": [0-9]*/"max_position_embeddings": 16/' "$dir/my-critic/config.json"
refused "models.mine: its context is 16 tokens, and that of the policy" critic.model=mine
