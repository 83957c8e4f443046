#!/bin/sh
# cluster.memory_mb is held by a real worker through rollouts and training, another reference included: its peak resident
# memory stays within the budget, a run without one needs more, and both give the same result. A budget that is too
# small is refused before anything begins, and the error names the keys that mend it.
. "$(dirname "$0")/common.sh"

# A model of 3 million parameters.
sed -i -e 's/"hidden_size": [0-9]*/"hidden_size": 256/' -e 's/"intermediate_size": [0-9]*/"intermediate_size": 704/' \
    -e 's/"num_hidden_layers": [0-9]*/"num_hidden_layers": 4/' -e 's/"num_attention_heads": [0-9]*/"num_attention_heads": 8/' \
    -e 's/"num_key_value_heads": [0-9]*/"num_key_value_heads": 8/' -e 's/"head_dim": [0-9]*/"head_dim": 32/' \
    -e 's/"max_position_embeddings": [0-9]*/"max_position_embeddings": 256/' "$dir/data/config.json"
sed -i -e '/^promote:/d' -e '/^evaluate:/d' -e 's/per_round: 24/per_round: 6/' -e '/kind: yes-no/d' \
    -e 's/- {name: exact.*/- {name: chance, kind: random}/' \
    -e 's/^rollout: .*/rollout: {samples: 8, temperature: 1.0, max_tokens: 100, min_tokens: 100}/' \
    -e 's/^train: .*/train: {loss: dpo, reference: initial, learning_rate: 1e-4, batch_size: 16, max_steps: 2, save_every: 1}/' \
    -e 's/workers: 2, judges: 1, threads: 1/workers: 1, judges: 1, threads: 2/' "$dir/job.yaml"

# peak STORE: MiB that its worker had resident at most.
peak() {
    sed -n 's/.*memory resident_peak_mb \([0-9]*\).*/\1/p' "$1"/logs/worker-0.log | sort -n | tail -n 1
}

begin "$dir/free"
finish 0
begin "$dir/held" --set cluster.memory_mb=190
finish 0
free=$(peak "$dir/free")
held=$(peak "$dir/held")
echo "peak $free MiB without a budget, $held MiB with one of 190"
[ "$held" -le 190 ] || fail "a worker had $held MiB resident, cluster.memory_mb is 190"
[ "$held" -ge 120 ] || fail "a worker had only $held MiB resident: the test shows nothing"
[ "$free" -gt 190 ] || fail "$free MiB without a budget: the test shows nothing"
same "$dir/free" "$dir/held"

status=0
"$joust" validate "$dir/job.yaml" --set cluster.memory_mb=100 >"$dir/refused" 2>&1 || status=$?
[ $status = 2 ] || fail "a budget of 100: status $status: $(cat "$dir/refused")"
grep -q "training needs [0-9]* MiB at least, and cluster.memory_mb is 100.*raise it, or lower train.batch_size" "$dir/refused" ||
    fail "no remedy in: $(cat "$dir/refused")"
status=0
"$joust" launch "$dir/job.yaml" --store "$dir/none" --set cluster.memory_mb=45 >"$dir/refused" 2>&1 || status=$?
[ $status = 2 ] && [ ! -e "$dir/none" ] || fail "a budget of 45: status $status: $(cat "$dir/refused")"
grep -q "a rollout needs [0-9]* MiB at least" "$dir/refused" || fail "no remedy in: $(cat "$dir/refused")"
