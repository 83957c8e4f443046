#!/bin/sh
# A job whose policy is trained by a program of others. It goes on from its own checkpoint after SIGKILL of the worker, the coordinator
# and the launcher, and nothing of it outlives who started it by 10 s; a trainer that misbehaves fails the job, which says how.
. "$(dirname "$0")/common.sh"
base=$here/../../ops/jobs/quickstart-base

# job COMMAND [TRAIN-KEYS]
job() {
    cat >"$dir/job.yaml" <<EOF
name: external
seed: 11
rounds: 2
models: {policy: {path: $base}}
prompts: {file: data/rounds.jsonl, per_round: 16, order: shuffle}
rollout: {samples: 4, temperature: 1.0, max_tokens: 20, template: "<bos>{prompt}<ans>"}
judges: [{name: exact, kind: rule, rule: steps-and-number}]
pairs: {build: best-worst}
train: {command: "$1"${2-}}
cluster: {workers: 1, judges: 1, threads: 1, heartbeat_ms: 200, lease_ms: 5000, grace_ms: 20000}
EOF
}

# trainers: process ids of the trainers of this test that live
trainers() {
    for process in /proc/[0-9]*; do
        command=$({ tr '\0' ' ' <"$process/cmdline"; } 2>/dev/null) || continue
        case $command in
        *toy_trainer*"$dir/"*) echo "${process#/proc/}" ;;
        esac
    done
}
no_trainer() {
    [ -z "$(trainers)" ]
}

toy="exec $JOUST_BUILD/toy_trainer --die-once $dir/there" # the file is there: it doesn't die of that
: >"$dir/there"
job "$toy --steps 40 --step-ms 100 --save-every 5" ", lora: {rank: 4}"
store=$dir/killed
log=$store/logs/worker-0-train-policy.log
begin "$store"
for role in worker coordinator launcher; do
    await grep -q '"checkpoint"' "$log"
    sleep 0.7
    if [ $role = launcher ]; then
        kill -9 "$launcher"
        wait "$launcher" 2>/dev/null || true
        launcher=""
        gone "$store" 10000
    else
        kill -9 $(roles "$store" $role) 2>/dev/null || true
    fi
    [ $role = coordinator ] || await no_trainer # the worker goes on without a coordinator
    [ $role != launcher ] || begin "$store"
done
finish 0
await no_trainer
[ "$(grep -c "goes on after step" "$log")" -ge 2 ] || fail "it didn't go on from its checkpoint: $(cat "$log")"
"$joust" store check --store "$store" >"$dir/check" || fail "store check: $(cat "$dir/check")"
[ -s "$store/checkpoints/policy/model.safetensors" ] || fail "no checkpoint"

# refused MODE WHAT [TRAIN-KEYS]: the job fails and names it
refused() {
    job "$toy $1" "${3-}"
    begin "$dir/$1"
    finish 1
    grep -q "train.*$2" "$dir/$1/logs/coordinator.log" || fail "$1: $(tail -n 3 "$dir/$1/logs/coordinator.log")"
    await no_trainer
}
refused dies "ended with status 134"
refused nothing "without a whole result"
refused shape "intermediate_size"
refused never-ends "it hasn't ended after 1.5 s" ", deadline_ms: 1500"

job "$toy" ", nodes: 2"
"$joust" validate "$dir/job.yaml" >"$dir/validate" 2>&1 && fail "two nodes"
grep -q "train.nodes: a train.command is started on one node" "$dir/validate" || fail "$(cat "$dir/validate")"

# The examples for trainers of others are good job files.
for example in trl openrlhf; do
    "$joust" validate "$here/../../ops/jobs/$example.yaml" --set models.policy.path="$(cd "$base" && pwd)" \
        --set prompts.file="$dir/data/rounds.jsonl" >"$dir/validate" 2>&1 || fail "$example.yaml: $(cat "$dir/validate")"
done
