#!/bin/bash
# ops/jobs/trl.yaml with TRL itself: DPOTrainer under torchrun with two processes on the CPU, two rounds on a real checkpoint
# (stories260K). In vLLM's place stands the engine's test server, which takes the same calls. Prints TRL's version, each round's
# training figures as Joust recorded them, and what was checked.
#
#   tests/evidence/trl_job.sh --python PYTHON [--build DIR] [--work DIR] [--data DIR]
#
# PYTHON is of an environment with torch, trl and datasets; its folder has torchrun.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
build=$root/build/release work=$root/build/trl_job data=$root/../shared/data/ckpt-stories260K python=
while [ $# -gt 0 ]; do
    case $1 in
    --python) python=$2 ;; --build) build=$2 ;; --work) work=$2 ;; --data) data=$2 ;;
    *) echo "usage: $0 --python PYTHON [--build DIR] [--work DIR] [--data DIR]" >&2; exit 2 ;;
    esac
    shift 2
done
PATH=$(dirname "$python"):$PATH
export PATH
rm -rf "$work"
mkdir -p "$work"
"$build/joust" model convert "$data/stories260K.bin" "$work/base" --tokenizer "$data/tok512.bin" >/dev/null
echo '{"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "model_max_length": 512}' \
    >"$work/base/tokenizer_config.json"
for prompt in "Once upon a time there was a little girl" "Tom and his dog went to the park" "The sun was shining and the birds" \
    "Lily wanted to play with her ball" "One day a big bear came to" "The boy was sad because he"; do
    printf '{"prompt":"%s"}\n' "$prompt"
done >"$work/prompts.jsonl"
cp "$root/ops/jobs/trl_dpo.py" "$work"
# What differs from the example: sizes, no GPU, who serves, and a judge that has something to say about stories.
sed -e 's#path: Qwen/Qwen2.5-0.5B-Instruct#path: base#' -e 's#^rounds: 3#rounds: 2#' -e 's#gpus: 1#gpus: 0#' \
    -e "s#VLLM_SERVER_DEV_MODE=1 vllm serve {model} --port {port} --served-model-name {name}#exec $build/engine_server --model {model} --port {port} --name {name}#" \
    -e '/--generation-config vllm/d' -e 's#per_round: 256#per_round: 6#' -e 's#samples: 8, temperature: 0.8, max_tokens: 512#samples: 4, temperature: 0.8, max_tokens: 32#' \
    -e 's#kind: rule, rule: final-number#kind: random#' -e 's#, min_chosen: 1, max_rejected: 0##' \
    -e 's#nproc-per-node=$JOUST_GPUS#nproc-per-node=2#' -e 's#max_steps: 200#max_steps: 6#' -e 's#batch_size: 8#batch_size: 4#' \
    "$root/ops/jobs/trl.yaml" >"$work/trl.yaml"
echo "$(date -u +%F), $(cd "$root" && git rev-parse --short HEAD): trl $("$python" -c 'import trl; print(trl.__version__)')," \
    "torch $("$python" -c 'import torch; print(torch.__version__)'), torchrun with 2 processes"
cd "$work"
"$build/joust" launch trl.yaml --store store >launch.log 2>&1 || { tail -n 5 launch.log store/logs/worker-0-train-policy.log; exit 1; }
"$build/joust" rounds --store store --json | sed 's/{"name":"/\n&/g' | grep '^{"name":"train' |
    grep -o '"round":[0-9]*\|"\(first_loss\|last_loss\|steps\)":{"value":[0-9.e-]*' | sed 's/{"value"://; s/"//g' | paste -sd' '
grep -c '^{"checkpoint"' store/logs/worker-0-train-policy.log | sed 's/$/ checkpoints of TRL made durable/'
"$build/joust" store check --store store | tail -n 1
"$python" -c '
import torch
from transformers import AutoModelForCausalLM
a, b = (AutoModelForCausalLM.from_pretrained(f).state_dict() for f in ("base", "store/checkpoints/policy"))
print("weights moved by", max(float((a[k] - b[k]).abs().max()) for k in a), "at most; loaded by transformers")' 2>/dev/null
