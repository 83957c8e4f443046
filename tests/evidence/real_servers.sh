#!/bin/bash
# Judges over servers of others, real software on this machine: llama.cpp's llama-server and llama-cpp-python's server, float32 weights
# of a real checkpoint (stories260K). Each of a few prompts is judged by the built-in engine and by each server, in each way that
# it can; prints by how much label log-probs differ, and what answers a policy managed by `serve:` gets from llama-server.
#
#   tests/evidence/real_servers.sh [--joust PROGRAM] [--python PYTHON] [--llama-server PROGRAM] [--work DIR] [--data DIR]
#
# PYTHON has gguf and numpy, and llama_cpp with its server's packages (pip install 'llama-cpp-python[server]' gguf); what is missing is
# left out and named.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
joust=$root/build/release/joust python=python3 llama=llama-server work=$root/build/real_servers data=$root/../shared/data/ckpt-stories260K
while [ $# -gt 0 ]; do
    case $1 in
    --joust) joust=$2 ;; --python) python=$2 ;; --llama-server) llama=$2 ;; --work) work=$2 ;; --data) data=$2 ;;
    *) echo "usage: $0 [--joust PROGRAM] [--python PYTHON] [--llama-server PROGRAM] [--work DIR] [--data DIR]" >&2; exit 2 ;;
    esac
    shift 2
done
rm -rf "$work"
mkdir -p "$work"
pids=""
trap 'kill $pids 2>/dev/null || true' EXIT
"$joust" model convert "$data/stories260K.bin" "$work/model" --tokenizer "$data/tok512.bin" >/dev/null
"$python" "$root/tests/evidence/engine_peers_gguf.py" "$work/model" "$work/model.gguf" "$data/tok512.bin"

# await_server PORT: until it lists its models
await_server() {
    for _ in $(seq 240); do
        ! curl -sf "http://127.0.0.1:$1/v1/models" >/dev/null || return 0
        sleep 0.5
    done
    return 1
}

for prompt in "Once upon a time there was a little girl" "Tom and his dog went to the park" "The sun was shining and the birds" \
    "Lily wanted to play with her ball" "One day a big bear came to" "The boy was sad because he"; do
    printf '{"prompt":"%s"}\n' "$prompt"
done >"$work/prompts.jsonl"

# compare NAME PORT WAY ...: judges by that server, beside the engine's
compare() {
    name=$1 port=$2
    shift 2
    for way; do
        cat >"$work/job.yaml" <<EOF
name: real
seed: 5
rounds: 1
models:
  policy: {path: model}
  critic: {endpoint: {urls: [http://127.0.0.1:$port/v1], model: stories, scoring: $way, top_logprobs: 400, deadline_ms: 60000}}
prompts: {file: prompts.jsonl}
rollout: {samples: 2, temperature: 0.8, max_tokens: 8}
judges:
  - {name: own, kind: yes-no, model: policy, labels: [was, had], template: "<s>{prompt}"}
  - {name: served, kind: yes-no, model: critic, labels: [" was", " had"], template: "{prompt}"}
pairs: {build: best-worst}
EOF
        rm -rf "$work/store"
        "$joust" launch "$work/job.yaml" --store "$work/store" >"$work/launch.log" 2>&1 || true # all samples are judged alike: no pair
        "$joust" verdicts export --store "$work/store" | "$python" -c '
import json, sys
own, served = {}, {}
for line in sys.stdin:
    v = json.loads(line)
    (own if v["judge"] == "own" else served)[v["trajectory"]] = v
gaps = [abs(a - b) for t, v in served.items() if v["outcome"] == "ok" for a, b in zip(v["label_logps"], own[t]["label_logps"])]
odds = [abs(v["value"] - own[t]["value"]) for t, v in served.items() if v["outcome"] == "ok"]
outcomes = sorted({v["outcome"] for v in served.values()})
print(f"{sys.argv[1]:24} {sys.argv[2]:5} verdicts {len(served)} {outcomes}; labels off by {max(gaps):.6f} at most, odds by {max(odds):.6f};",
      "fingerprints", len({v.get("fingerprint") for v in served.values()}))' "$name" "$way"
    done
}

echo "$(date -u +%F), $(cd "$root" && git rev-parse --short HEAD)"
if "$python" -c 'import llama_cpp.server.app' 2>/dev/null; then
    "$python" -m llama_cpp.server --model "$work/model.gguf" --model_alias stories --logits_all true --n_ctx 512 --port 18131 \
        >"$work/python.log" 2>&1 &
    pids="$pids $!"
    await_server 18131
    compare "llama-cpp-python $("$python" -c 'import llama_cpp; print(llama_cpp.__version__)')" 18131 echo top auto
else
    echo "llama-cpp-python's server isn't there"
fi
if command -v "$llama" >/dev/null; then
    "$llama" -m "$work/model.gguf" --alias stories --port 18132 -c 1024 -np 2 --no-webui >"$work/llama.log" 2>&1 &
    pids="$pids $!"
    await_server 18132
    compare "llama-server $("$llama" --version 2>&1 | sed -n 's/^version: //p' | cut -d' ' -f1)" 18132 top auto
    cat >"$work/job.yaml" <<EOF
name: managed
seed: 5
rounds: 2
models:
  policy:
    path: model
    serve:
      command: "$python $root/tests/evidence/engine_peers_gguf.py {model} $work/{replica}.gguf $data/tok512.bin && exec $llama -m $work/{replica}.gguf --alias {name} --port {port} -c 4096 -np 4 --no-webui"
      replicas: 1
      publish: restart
      deadline_ms: 120000
prompts: {file: prompts.jsonl}
rollout: {samples: 4, temperature: 0.8, max_tokens: 24, template: "<s>{prompt}"}
judges: [{name: dice, kind: random}]
pairs: {build: best-worst}
train: {loss: dpo, learning_rate: 1e-4, batch_size: 4, max_steps: 4}
EOF
    rm -rf "$work/store"
    if "$joust" launch "$work/job.yaml" --store "$work/store" >"$work/launch.log" 2>&1; then
        "$joust" rounds --store "$work/store" --json | grep -o '"round":[0-9]*,"stages\|"max_logp_gap":{"value":[0-9.e-]*' |
            sed 's/,"stages//; s/{"value"://; s/"//g' | paste -sd' ' | sed 's/^/managed llama-server: trained on its answers; /'
    else
        echo "managed llama-server: $(tail -n 3 "$work/launch.log")"
    fi
else
    echo "llama-server isn't there"
fi
