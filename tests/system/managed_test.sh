#!/bin/sh
# managed_test.sh [ROUNDS [PER_ROUND]]: a policy that is served by four servers of the worker's own, and trained by the
# built-in engine. After each promotion one server keeps the weights that it had, one has another model, one is never
# ready: none of the three is given any work of a version that it doesn't have, each is named in the worker's log within
# its deadline, and the job ends with all its rounds. Then, with SIGKILL of worker, coordinator and launcher: no server outlives
# who started it by 10 s, and the job ends all the same.
. "$(dirname "$0")/common.sh"
rounds=${1:-3}
n=${2:-16}
base=$here/../../ops/jobs/quickstart-base
deadline_ms=8000

# job COMMAND [REPLICAS [SERVE-KEYS]]: the job file with servers started so
job() {
    cat >"$dir/job.yaml" <<EOF
name: managed
seed: 11
rounds: $rounds
models:
  policy:
    path: $base
    serve:
      command: >-
        $1
      replicas: ${2:-4}
      deadline_ms: $deadline_ms
      tolerance: 0.001
      ${3-}
prompts: {file: data/rounds.jsonl, per_round: $n, order: shuffle}
rollout: {samples: 4, temperature: 1.0, max_tokens: 20, template: "<bos>{prompt}<ans>"}
judges:
  - {name: self, kind: yes-no, model: policy}
  - {name: exact, kind: rule, rule: steps-and-number, role: evaluate}
pairs: {build: best-worst}
train: {loss: dpo, sft_weight: 1.0, learning_rate: 1e-4, batch_size: 8, max_steps: 12, save_every: 3}
promote: {prompts: data/validation.jsonl, judge: exact, not_worse_than: nothing}
cluster: {workers: 1, judges: 1, threads: 1, heartbeat_ms: 200, lease_ms: 20000, grace_ms: 20000}
EOF
}

# servers: process ids of the servers of this test that live
servers() {
    for process in /proc/[0-9]*; do
        command=$({ tr '\0' ' ' <"$process/cmdline"; } 2>/dev/null) || continue
        case $command in
        *engine_server*"--log $dir/"*) echo "${process#/proc/}" ;;
        esac
    done
}

# no_server_of "PIDS" WITHIN_MS: those processes are gone by then
no_server_of() {
    deadline=$(($(now) + $2))
    for process in $1; do
        while [ -d "/proc/$process" ] && ! grep -qs "^State:.*Z" "/proc/$process/status"; do
            [ "$(now)" -lt "$deadline" ] || fail "server $process outlives who started it"
            sleep 0.05
        done
    done
}

# asked N WEIGHTS: how many requests but probes server N answered with weights of that digest (empty: any)
asked() {
    awk -v w="${2-}" '$2 ~ /^r[0-9]/ && (w == "" || $1 == w) { n++ } END { print n + 0 }' "$dir/asked.$1" 2>/dev/null || echo 0
}

run="exec $JOUST_BUILD/engine_server --port {port} --name {name} --log $dir/asked.{replica}"
job "$run --model {model}" 1
SETS="--set seed=12 --set rounds=1" # where the other model comes from
begin "$dir/other"
SETS=""
finish 0
rm -f "$dir"/asked.*

job "case {replica} in
        1) test -d $dir/keep || cp -r {model} $dir/keep; $run --gate $dir/open.{version} --model $dir/keep;;
        2) $run --model $dir/other/checkpoints/policy;;
        3) $run --model {model} --mute;;
        *) $run --gate $dir/open.{version} --model {model};; esac"
begin "$dir/four"
log=$dir/four/logs/worker-0.log
# named N VERSION: server N is said not to have that version
named() {
    grep -E "worker-0-policy-$1 .*(doesn't have|gets no work of) version $2: probe [0-9]: other weights" "$log"
}
await grep "worker-0-policy-3 .*it isn't ready after" "$log"
for version in $(seq 0 "$rounds"); do # who has the right weights answers once who hasn't is named
    await named 2 "$version"
    [ "$version" = 0 ] || await named 1 "$version"
    : >"$dir/open.$version"
done
finish 0
[ "$("$joust" rounds --store "$dir/four" --json | grep -o '"max_logp_gap":{"value":0,' | wc -l)" = "$rounds" ] ||
    fail "an answer of other weights was trained on: $("$joust" rounds --store "$dir/four" --json | grep -o '"max_logp_gap":{[^}]*}')"
first=$(awk '$2 == "loaded" { print $1; exit }' "$dir/asked.0")
[ "$(awk '$2 == "loaded" { print $1 }' "$dir/asked.0" | sort -u | wc -l)" = "$((rounds + 1))" ] || fail "server 0 wasn't given each version"
[ "$(asked 1)" = "$(asked 1 "$first")" ] || fail "server 1 was asked with weights that it shouldn't have"
[ "$(asked 1)" -gt 0 ] || fail "server 1 had the right weights at first, and got no work"
[ "$(asked 2)" = 0 ] || fail "server 2 has another model, and was asked $(asked 2) times"
[ "$(asked 3)" = 0 ] || fail "server 3 was never ready, and was asked"
# since NAME TEXT: milliseconds from the first start of that server to the first line about it with the text
since() {
    awk -v name="$1" -v text="$2" 'function ms(t) { split(substr(t, 12), p, /[:Z]/); return ((p[1] * 60 + p[2]) * 60 + p[3]) * 1000 }
        index($0, name " starts") && !from { from = ms($1) }
        index($0, name) && index($0, text) && from { print ms($1) - from; exit }' "$log"
}
[ -z "${NAMED-}" ] || grep -E " (warn|error) .*worker-0-policy-[123]" "$log" | sed "s|$dir|DIR|g"
took=$(since worker-0-policy-3 "it isn't ready after")
[ -n "$took" ] || fail "server 3 isn't named"
echo "$rounds rounds; server 3 was named $took ms after its start (deadline $deadline_ms ms);" \
    "server 0 answered $(asked 0) requests, 1 $(asked 1), 2 $(asked 2), 3 $(asked 3)"

# Who starts servers ends, by SIGKILL.
rm -f "$dir"/asked.*
job "$run --model {model}" 2 "publish: /reload"
store=$dir/killed
begin "$store"
await test -s "$dir/asked.0"
for role in worker coordinator; do
    before=$(servers)
    victims=$(roles "$store" $role)
    [ -n "$victims" ] || break
    kill -9 $victims 2>/dev/null || true
    [ $role = coordinator ] || no_server_of "$before" 10000
    sleep 1
done
kill -9 "$launcher" 2>/dev/null || true
wait "$launcher" 2>/dev/null || true
launcher=""
gone "$store" 10000
no_server_of "$(servers)" 10000
begin "$store"
finish 0
no_server_of "$(servers)" 10000
[ "$("$joust" rounds --store "$store" --json | grep -o '"max_logp_gap":{"value":0,' | wc -l)" = "$rounds" ] || fail "after kills: other weights"
grep -q "/reload" "$dir/asked.0" || fail "no server was given weights by its own call"
