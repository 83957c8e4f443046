#!/bin/sh
# A judge's budget of requests and of tokens: when one is spent the job stops and says which key; raised, it goes on where it was,
# asks nothing again that was recorded, and ends as without a budget.
. "$(dirname "$0")/common.sh"
. "$here/served_common.sh"
n=12
awk -v n="$n" 'BEGIN { for (i = 0; i < n; i++) printf "{\"prompt\":\"Ann has %d apples. How many?\"}\n", i }' >"$dir/prompts.jsonl"

# job KEYS: the job file, with these keys of the judge's endpoint
job() {
    cat >"$dir/job.yaml" <<EOF
name: budget
seed: 7
rounds: 1
models:
  policy: {endpoint: {urls: [$(cat "$dir/good.url")], model: test}}
  critic: {endpoint: {urls: [$(cat "$dir/critic.url")], model: test, scoring: top, concurrency: 1$1}}
prompts: {file: prompts.jsonl}
rollout: {samples: 2, temperature: 0.8, max_tokens: 200}
judges: [{name: critic, kind: yes-no, model: critic, labels: [" yes", " no"], template: "{prompt}\n{response}\nIs it right?"}]
cluster: {workers: 1, judges: 1, heartbeat_ms: 200}
EOF
}

serve good
serve critic
job ""
begin "$dir/plain"
finish 0
: >"$log.critic"

store=$dir/spent
for key in max_requests max_tokens; do
    job ", $key: 9"
    begin "$store"
    finish 1
    grep -q "models.critic.endpoint.$key: [0-9]* of 9 are spent; raise it" "$store.out" || fail "$key: $(cat "$store.out")"
    "$joust" verdicts export --store "$store" | wc -l >"$dir/held"
    [ "$(cat "$dir/held")" -lt $((2 * n)) ] || fail "$key stopped nothing"
    : >"$store.out"
done
job ", max_requests: 1000, max_tokens: 1000"
begin "$store"
finish 0
same "$dir/plain" "$store"
# Each verdict was asked for once, but for what was in flight when the job stopped.
watched=critic
[ "$(asked ok | awk '{ print $2 }' | sort -u | wc -l)" = $((2 * n)) ] || fail "not every question was answered"
[ "$(asked ok | wc -l)" -le $((2 * n + 2 * 4)) ] || fail "$(asked ok | wc -l) answers to $((2 * n)) questions"
