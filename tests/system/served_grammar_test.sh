#!/bin/sh
# A server that passes over rollout.grammar and json_schema: its answers are refused with its name and what to do, none is recorded;
# where what it says happens to fit, the job goes on.
. "$(dirname "$0")/common.sh"
. "$here/served_common.sh"

serve one
for i in 1 2 3 4; do
    echo "{\"prompt\":\"Ann has $i apples and gets 2 more. How many?\",\"reference\":\"#### $((i + 2))\"}"
done >"$dir/prompts.jsonl"
cat >"$dir/job.yaml" <<END
name: served
seed: 7
rounds: 1
models:
  policy: {endpoint: {urls: [$(cat "$dir/one.url")], model: test, server: llama.cpp}}
prompts: {file: prompts.jsonl, per_round: 4}
rollout: {samples: 2, temperature: 0.8, max_tokens: 200, template: "Question: {prompt}\nAnswer:"}
judges: [{name: exact, kind: rule, rule: final-number}]
pairs: {build: best-worst, min_chosen: 1, max_rejected: 0}
cluster: {workers: 1, judges: 1}
END
echo 'root ::= "never" [0-9]+' >"$dir/never.gbnf"
echo 'root ::= .*' >"$dir/any.gbnf"
echo '{"type":"object"}' >"$dir/object.json"

# refused NAME SETTING TEXT
refused() {
    SETS="--set $2"
    begin "$dir/$1"
    finish 1
    grep -q "$3" "$dir/$1.out" || fail "$1: $(tail -n 20 "$dir/$1.out")"
    [ "$(durable "$dir/$1" | wc -l)" = 0 ] || fail "$1: an answer that isn't allowed is recorded"
}
refused never rollout.grammar="$dir/never.gbnf" "$(cat "$dir/one.url" | cut -c1-20).* gave an answer that rollout.grammar doesn't allow: not from byte"
refused object rollout.json_schema="$dir/object.json" "rollout.json_schema doesn't allow: not JSON"

SETS="--set rollout.grammar=$dir/any.gbnf"
begin "$dir/any"
finish 0
[ "$(durable "$dir/any" | wc -l)" = 8 ] || fail "$(durable "$dir/any" | wc -l) answers"
