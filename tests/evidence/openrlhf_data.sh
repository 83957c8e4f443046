#!/bin/bash
# ops/jobs/openrlhf.yaml as far as it goes without a GPU: its command line put to OpenRLHF's own parser, the pairs that Joust writes to
# OpenRLHF's own data set, on a real checkpoint (stories260K), two rounds; nothing is trained (openrlhf_data.py stands in deepspeed's
# place). Prints OpenRLHF's version and what its code made of both.
#
#   tests/evidence/openrlhf_data.sh --python PYTHON --wheel FILE [--joust PROGRAM] [--work DIR] [--data DIR]
#
# PYTHON is of an environment with torch, transformers, datasets and pylatexenc; FILE is what `pip download --no-deps openrlhf` fetches.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
joust=$root/build/release/joust work=$root/build/openrlhf_data data=$root/../shared/data/ckpt-stories260K python= wheel=
while [ $# -gt 0 ]; do
    case $1 in
    --python) python=$2 ;; --wheel) wheel=$2 ;; --joust) joust=$2 ;; --work) work=$2 ;; --data) data=$2 ;;
    *) echo "usage: $0 --python PYTHON --wheel FILE [--joust PROGRAM] [--work DIR] [--data DIR]" >&2; exit 2 ;;
    esac
    shift 2
done
rm -rf "$work"
mkdir -p "$work/bin"
"$python" -m zipfile -e "$wheel" "$work/wheel"
purelib=$(echo "$work"/wheel/openrlhf-*.data/purelib)
"$joust" model convert "$data/stories260K.bin" "$work/base" --tokenizer "$data/tok512.bin" >/dev/null
echo '{"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "model_max_length": 512}' \
    >"$work/base/tokenizer_config.json"
for prompt in "Once upon a time there was a little girl" "Tom and his dog went to the park" "The sun was shining and the birds" \
    "Lily wanted to play with her ball" "One day a big bear came to" "The boy was sad because he"; do
    printf '{"prompt":"%s"}\n' "$prompt"
done >"$work/prompts.jsonl"
printf '#!/bin/sh\nexec "%s" "%s" "%s" "$@"\n' "$python" "$root/tests/evidence/openrlhf_data.py" "$purelib" >"$work/bin/deepspeed"
chmod +x "$work/bin/deepspeed"
sed -e 's#path: Qwen/Qwen2.5-0.5B-Instruct#path: base#' -e 's#^rounds: 3#rounds: 2#' -e 's#gpus: 1#gpus: 0#' \
    -e 's#per_round: 256#per_round: 6#' -e 's#samples: 8, temperature: 0.8, max_tokens: 512#samples: 4, temperature: 0.8, max_tokens: 32#' \
    -e 's#kind: rule, rule: final-number#kind: random#' -e 's#, min_chosen: 1, max_rejected: 0##' -e 's#batch_size: 8#batch_size: 4#' \
    "$root/ops/jobs/openrlhf.yaml" >"$work/openrlhf.yaml"
echo "$(date -u +%F), $(cd "$root" && git rev-parse --short HEAD): openrlhf $(basename "$wheel" | cut -d- -f2)," \
    "transformers $("$python" -c 'import transformers; print(transformers.__version__)')"
cd "$work"
PATH=$work/bin:$PATH HF_HUB_OFFLINE=1 HF_HOME=$work/hf "$joust" launch openrlhf.yaml --store store >launch.log 2>&1 ||
    { tail -n 5 launch.log store/logs/worker-0-train-policy.log; exit 1; }
grep 'read by OpenRLHF' store/logs/worker-0-train-policy.log | sed 's/^/round: /'
"$joust" store check --store store | tail -n 1
