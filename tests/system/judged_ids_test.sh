#!/bin/sh
# judged_ids_test.sh: judges over an endpoint that is given token ids (endpoint.tokenizer) see what a built-in judge with the same
# template sees: their verdicts have the same question's digest and the same values, by echo and by the likeliest first
# tokens. Another tokenizer is another job, and a template of ids without one is refused.
. "$(dirname "$0")/common.sh"
base=$here/../../ops/jobs/quickstart-base
mkdir "$dir/tokenizer"
cp "$base/tokenizer.json" "$dir/tokenizer/"

port=$((20000 + $$ % 20000))
for try in 1 2 3 4 5; do
    "$JOUST_BUILD/engine_server" --model "$base" --port "$port" --name test >"$dir/server.out" 2>&1 &
    others="$others $!"
    await grep -q -e serving -e "can't be had" "$dir/server.out"
    ! grep -q serving "$dir/server.out" || break
    port=$((port + 7))
done
grep -q serving "$dir/server.out" || fail "no server: $(cat "$dir/server.out")"

cat >"$dir/job.yaml" <<EOF
name: ids
seed: 5
rounds: 1
models:
  policy: {path: $base}
  echoed: {endpoint: {urls: ["http://127.0.0.1:$port/v1"], model: test, tokenizer: tokenizer, scoring: echo, probe: false}}
  listed:
    endpoint: {urls: ["http://127.0.0.1:$port/v1"], model: test, tokenizer: tokenizer, scoring: top, top_logprobs: 400, probe: false}
prompts: {file: data/rounds.jsonl, per_round: 6}
rollout: {samples: 3, temperature: 1.0, max_tokens: 20, template: "<bos>{prompt}<ans>"}
judges:
  - {name: own, kind: yes-no, model: policy}
  - {name: echoed, kind: yes-no, model: echoed}
  - {name: listed, kind: yes-no, model: listed}
rewards: {combine: mean}
cluster: {workers: 1, judges: 1, threads: 1}
EOF

begin "$dir/store"
finish 0
"$joust" verdicts export --store "$dir/store" >"$dir/verdicts" || fail "verdicts export"

# seen JUDGE: the questions that the judge was asked, and what it answered
seen() {
    grep "\"judge\":\"$1\"" "$dir/verdicts" | while read -r line; do
        rendered=$(echo "$line" | grep -o '"rendered":"[0-9a-f]*"')
        value=$(echo "$line" | grep -o '"value":-\{0,1\}[0-9.e-]*' | head -1 | cut -d: -f2)
        printf '%s %.4f\n' "$rendered" "$value"
    done
}
seen own >"$dir/own"
[ "$(grep -c '"rendered":"[0-9a-f]\{64\}" -\{0,1\}[0-9]' "$dir/own")" = 18 ] || fail "own verdicts: $(cat "$dir/own") $(head -1 "$dir/verdicts")"
for judge in echoed listed; do
    seen "$judge" | cmp - "$dir/own" || fail "'$judge' saw or said something else: $(seen "$judge" | diff - "$dir/own" | head -4)"
done

# Another tokenizer decides other answers: the store is another job's.
cp "$dir/tokenizer/tokenizer.json" "$dir/tokenizer.json"
echo " " >>"$dir/tokenizer/tokenizer.json"
status=0
"$joust" launch "$dir/job.yaml" --store "$dir/store" >"$dir/again" 2>&1 || status=$?
[ $status = 2 ] || fail "another tokenizer: status $status: $(cat "$dir/again")"
grep -q "models.echoed" "$dir/again" || fail "another tokenizer: $(cat "$dir/again")"

sed 's/tokenizer: tokenizer, //' "$dir/job.yaml" >"$dir/text.yaml"
status=0
"$joust" validate "$dir/text.yaml" >"$dir/refused" 2>&1 || status=$?
[ $status = 2 ] || fail "without a tokenizer: status $status"
grep -q "or name models.echoed.endpoint.tokenizer" "$dir/refused" || fail "$(cat "$dir/refused")"
