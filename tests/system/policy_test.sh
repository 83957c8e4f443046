#!/bin/sh
# Policy losses from a job file through launch: every one trains on answers whose advantages are of their group; the same
# bytes with other numbers of workers and threads, and after the trainer was killed; log-probs as the rollouts recorded
# them. What a policy loss doesn't take is refused at its key, and rewards without a difference train nothing.
. "$(dirname "$0")/common.sh"
sed -i -e '/^promote:/d' -e '/^evaluate:/d' -e '/^pairs:/d' \
    -e 's/^train: .*/train: {loss: grpo, learning_rate: 1e-3, batch_size: 16, max_steps: 24, save_every: 3}/' "$dir/job.yaml"
KINDS="trajectories verdicts"

rounds() {
    "$joust" rounds --store "$1" --json
}

for loss in reinforce rloo dr_grpo dapo gspo cispo; do
    set_train loss=$loss max_steps=2
    begin "$dir/store" --workers 1 --judges 1 --set rounds=1
    finish 0
    rounds "$dir/store" | grep -q '"name":"group".*"answers":{"value":96,' || fail "$loss: $(rounds "$dir/store")"
    rounds "$dir/store" | grep -q '"steps":{"value":2,.*"first_loss"' || fail "$loss took no steps"
    rm -rf "$dir/store" "$dir/store.out"
done

set_train kl_weight=0.05 kl=k2 epsilon_high=0.3 reference=initial dynamic_sampling=true
begin "$dir/one" --workers 1 --judges 1 --threads 1
finish 0
[ "$(rounds "$dir/one" | grep -c '"max_logp_gap":{"value":0,')" = 2 ] || fail "a gap of log-probs: $(rounds "$dir/one")"
begin "$dir/many" --workers 3 --judges 2 --threads 2
finish 0
same "$dir/one" "$dir/many"
begin "$dir/killed" --workers 2 --judges 1
await grep -q "stage round 1 group done" "$dir/killed/logs/coordinator.log"
kill -9 $(roles "$dir/killed" worker)
finish 0
same "$dir/one" "$dir/killed"
cmp "$dir/one/checkpoints/policy/model.safetensors" "$dir/killed/checkpoints/policy/model.safetensors" ||
    fail "the killed job's weights differ"

refused "train.epsilon: is of policy losses" loss=dpo epsilon=0.1
refused "train.kl_weight: needs a reference" kl_weight=0.1 reference=none
refused "train.label_smoothing: has no effect" label_smoothing=0.1
refused "did you mean 'grpo'" loss=gprpo
SETS="--set rollout.samples=1"
"$joust" validate "$dir/job.yaml" $SETS >"$dir/refused" 2>&1 && fail "one sample is enough"
grep -q "rollout.samples: grpo compares a prompt's samples" "$dir/refused" || fail "one sample: $(cat "$dir/refused")"

# A model of drawn weights never answers right: every reward is 0.
sed -i -e 's/^  - {name: self.*//' -e 's/, role: evaluate//' "$dir/job.yaml"
SETS=""
begin "$dir/nothing" --workers 1 --judges 1
finish 1
grep -q "no group was decided" "$dir"/nothing/logs/*.log || fail "nothing says that no group was decided"
