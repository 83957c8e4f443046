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

for loss in reinforce rloo dr_grpo dapo gspo cispo rwr; do
    set_train loss=$loss max_steps=2
    begin "$dir/store" --workers 1 --judges 1 --set rounds=1
    finish 0
    rounds "$dir/store" | grep -q '"name":"group".*"answers":{"value":96,' || fail "$loss: $(rounds "$dir/store")"
    rounds "$dir/store" | grep -q '"steps":{"value":2,.*"first_loss"' || fail "$loss took no steps"
    rm -rf "$dir/store" "$dir/store.out"
done

# Reward-weighted: the weights of a group's answers have the mean 1.
set_train loss=rwr beta=2 max_steps=2
begin "$dir/store" --workers 1 --judges 1 --set rounds=1
finish 0
"$joust" trajectories list --store "$dir/store" --round 1 --json |
    sed -n 's/.*"id":"r1.s[0-9]*.p\([0-9]*\)[.].*"advantage":\([^}]*\)}$/\1 \2/p' |
    awk '{ sum[$1] += $2; n[$1]++ } END { for (g in sum) if ((sum[g] - n[g]) ^ 2 > 1e-12) exit 1; exit !length(n) }' ||
    fail "the weights of a group have not the mean 1"
rm -rf "$dir/store" "$dir/store.out"

set_train kl_weight=0.05 kl=k2 epsilon_high=0.3 reference=initial dynamic_sampling=true
begin "$dir/one" --workers 1 --judges 1 --threads 1
finish 0
[ "$(rounds "$dir/one" | grep -c '"max_logp_gap":{"value":0,')" = 2 ] || fail "a gap of log-probs: $(rounds "$dir/one")"
# What it trained on: each answer's reward and advantage, which sum to 0 in a group; each token's credit, and the steps.
"$joust" trajectories list --store "$dir/one" --round 1 | head -n 1 | grep -q "reward advantage" || fail "no advantages are listed"
[ "$("$joust" trajectories export --store "$dir/one" | grep -c '"advantage"')" = 0 ] || fail "an export has what isn't recorded"
"$joust" trajectories list --store "$dir/one" --round 1 --json >"$dir/listed"
[ "$(wc -l <"$dir/listed")" = 96 ] || fail "$(wc -l <"$dir/listed") answers are listed"
sed -n 's/.*"id":"r1.s[0-9]*.p\([0-9]*\)[.].*"advantage":\([^}]*\)}$/\1 \2/p' "$dir/listed" |
    awk '$2 != "null" { sum[$1] += $2; size += $2 * $2; n++ } END { for (g in sum) if (sum[g] * sum[g] > 1e-12) exit 1; exit !(n && size > 1) }' ||
    fail "the advantages of a group don't sum to 0"
used=$(grep -v '"advantage":null' "$dir/listed" | head -n 1 | sed 's/.*"id":"\([^"]*\)".*/\1/')
"$joust" trajectories show "$used" --store "$dir/one" >"$dir/shown"
grep -q "^reward .*, advantage " "$dir/shown" && grep -q "^trained on in [1-9]" "$dir/shown" || fail "$used: $(cat "$dir/shown")"
"$joust" trajectories show "$used" --store "$dir/one" --json | grep -q '"credit":\[-*[0-9].*"n_steps":[1-9]' || fail "$used as JSON"
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
