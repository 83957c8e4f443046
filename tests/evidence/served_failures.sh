#!/bin/sh
# served_failures.sh BUILD GSM8K.jsonl [KILLS [N]]: a job over N (800) problems with question and answer keys, 4 samples each, through
# four loopback servers of which each kind of failure is injected in 20 % of a server's requests, under KILLS (12) SIGKILLs
# of workers, coordinator, both; see tests/system/served_test.sh for what must hold.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
JOUST_BUILD=$(cd "$here/../../${1:-build/release}" && pwd)
export JOUST_BUILD
prompts=$(mktemp)
trap 'rm -f "$prompts"' EXIT
sed 's/^{"question":/{"prompt":/; s/, "answer": "/, "reference": "/' "$2" >"$prompts"
echo "== $(git -C "$here" rev-parse HEAD), $(date -u +%Y-%m-%d), $(nproc) cores, ${4:-800} of $(wc -l <"$prompts") problems"
"$here/../system/served_test.sh" "${3:-12}" "$prompts" "${4:-800}"
