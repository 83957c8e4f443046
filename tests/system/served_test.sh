#!/bin/sh
# served_test.sh KILLS [PROMPTS.jsonl [N]]: a job through four servers on the loopback, each of which fails in its own ways, every kind
# in 20 % of its requests, while coordinator and workers are killed with SIGKILL, in turn and together. The result equals the
# quiet run's (these servers honour the seed), each answer is there once, nothing that was durable is asked again, and what
# was asked again is counted: no more than was in flight.
. "$(dirname "$0")/common.sh"
kills=${1:-4}
n=${3:-60}

if [ -n "${2-}" ]; then
    head -n "$n" "$2" >"$dir/prompts.jsonl"
else
    awk -v n="$n" 'BEGIN { for (i = 0; i < n; i++)
        printf "{\"prompt\":\"Ann has %d apples and gets %d more. How many?\",\"reference\":\"#### %d\"}\n", i, i % 7, i + i % 7 }' \
        >"$dir/prompts.jsonl"
fi
samples=4
log=$dir/requests

# serve NAME FAULT=PERCENT ...: a server process; its URL goes to $dir/NAME.url
serve() {
    name=$1
    shift
    "$JOUST_BUILD/endpoint_server" --model test --log "$log.$name" --slow-ms 3000 --answer-ms 20 "$@" >"$dir/$name.url" &
    others="$others $!"
    await test -s "$dir/$name.url"
}

# job URL ...: the job file over those servers
job() {
    cat >"$dir/job.yaml" <<EOF
name: served
seed: 7
rounds: 2
models:
  policy: {endpoint: {urls: [$(cat "$@" | paste -sd, -)], model: test, concurrency: 4, timeout_ms: 1000, breaker_ms: 50}}
prompts: {file: prompts.jsonl, per_round: $((n / 2))}
rollout: {samples: $samples, temperature: 0.8, max_tokens: 200, template: "Question: {prompt}\nAnswer:"}
judges: [{name: exact, kind: rule, rule: final-number}]
pairs: {build: best-worst, min_chosen: 1, max_rejected: 0}
cluster: {workers: 2, judges: 1, heartbeat_ms: 300}
EOF
}

serve good
job "$dir/good.url"
begin "$dir/quiet"
finish 0

serve a slow=20 cut=20
serve b busy=20 error=20
serve c malformed=20 half=20
serve d count=20 nan=20 model=20
job "$dir/a.url" "$dir/b.url" "$dir/c.url" "$dir/d.url"

# durable STORE: ids of the recorded answers, in order
durable() {
    "$joust" trajectories export --store "$1" 2>/dev/null | sed 's/.*"id":"\(r[0-9.a-z]*\)".*/\1/' | sort
}

# asked [ok]: "MS ID" of all requests (whole answers) so far, without the probes
asked() {
    cat "$log".[abcd] | awk -v what="${1:-ask}" '$2 == what && $3 != "probe" { print $1, $3 }'
}

# until MS, since MS: ids of "MS ID" lines
until_ms() {
    awk -v at="$1" '$1 <= at { print $2 }' | sort -u
}
since_ms() {
    awk -v at="$1" '$1 > at { print $2 }' | sort -u
}

# choose: who is killed next
choose() {
    [ $((k % 3)) = 1 ] || roles "$store" worker
    [ $((k % 3)) = 0 ] || roles "$store" coordinator
}

store=$dir/killed
delays=$(awk -v n="$kills" -v seed="${SEED:-1}" 'BEGIN { srand(seed); for (i = 0; i < n; i++) printf "%.2f\n", 0.8 + 1.5 * rand() }')
begin "$store"
k=0
in_flight=0
again=0
: >"$dir/violations"
for delay in $delays; do
    sleep "$delay"
    [ "$k" != 0 ] || await test -s "$log.a"
    victims=$(choose)
    while [ -z "$victims" ] && kill -0 "$launcher" 2>/dev/null; do # they are just being started again
        sleep 0.1
        victims=$(choose)
    done
    [ -n "$victims" ] || break # the job is over
    kill -9 $victims 2>/dev/null || true
    # What is durable now was so before the kill or became so in these milliseconds; in flight is what was asked and isn't.
    at=$(now)
    durable "$store" >"$dir/in.$k"
    now >"$dir/seen.$k"
    asked | until_ms "$at" >"$dir/asked.$k"
    in_flight=$((in_flight + $(comm -23 "$dir/asked.$k" "$dir/in.$k" | wc -l)))
    # A worker that lives on tries again what failed: there only answers that were whole count as lost.
    [ $((k % 3)) != 1 ] || asked ok | until_ms "$at" >"$dir/asked.$k"
    echo "$at" >"$dir/at.$k"
    k=$((k + 1))
    "$joust" status --store "$store" >/dev/null 2>&1 || true
done
finish 0

# Asked after it was seen to be durable: never. Asked before a kill and after it, up to the next: again.
i=0
while [ "$i" -lt "$k" ]; do
    asked | since_ms "$(cat "$dir/seen.$i")" | comm -12 - "$dir/in.$i" >>"$dir/violations"
    end=9999999999999
    [ "$((i + 1))" = "$k" ] || end=$(cat "$dir/at.$((i + 1))")
    asked | awk -v end="$end" '$1 <= end' | since_ms "$(cat "$dir/at.$i")" | comm -12 - "$dir/asked.$i" >"$dir/after"
    again=$((again + $(wc -l <"$dir/after")))
    i=$((i + 1))
done
[ ! -s "$dir/violations" ] || fail "asked again though durable: $(sort -u "$dir/violations" | head -n 5 | tr '\n' ' ')"

same "$dir/quiet" "$store"
[ "$(durable "$store" | uniq -d | wc -l)" = 0 ] || fail "an answer is recorded twice"
[ "$(durable "$store" | wc -l)" = "$((n / 2 * 2 * samples))" ] || fail "$(durable "$store" | wc -l) answers"

# figure NAME: its sum over the rounds
figure() {
    "$joust" rounds --store "$store" --json | grep -o "\"$1\":{\"value\":[0-9]*" | awk -F: '{ s += $3 } END { print s + 0 }'
}
requests=$(figure requests)
reasked=$(figure re_asked)
[ "$again" -le "$reasked" ] || fail "$again requests were asked again, $reasked are counted"
[ "$requests" = "$((n / 2 * 2 * samples + reasked))" ] || fail "$requests requests, $reasked of them again"
[ "$again" -le "$in_flight" ] || fail "$again requests were asked again, $in_flight were in flight"
echo "$k kills; $requests requests given out, $reasked of them again by the job's count; by the servers' logs $again were" \
    "asked again after a kill, of $in_flight in flight; $(figure retries) retries"
cat "$log".[abcd] | awk '$3 != "probe" { n[$2]++ } END { for (w in n) printf "  %s %d\n", w, n[w] }' | sort
