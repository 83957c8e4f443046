#!/bin/bash
# joust bench engine prints what it says it does, for a shape and for the same weights read from a folder. No figure of time
# is looked at but that it is there. JOUST_BUILD is the build folder.
set -euo pipefail
joust=$JOUST_BUILD/joust
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

fail() {
    echo "$*" >&2
    exit 1
}

small=(--prompts 1 --samples 2 --prompt-tokens 4 --tokens 3 --pairs 1 --repeat 1 --threads 2)
"$joust" bench engine --shape 15m --save "$dir/model"
"$joust" bench engine --model "$dir/model" "${small[@]}" --json >"$dir/out"
[ "$(wc -l <"$dir/out")" = 3 ] || fail "$(cat "$dir/out")"
for figure in generate:multiply decode:read train:multiply; do
    line=$(grep "\"figure\":\"${figure%:*}\"" "$dir/out") || fail "no $figure: $(cat "$dir/out")"
    [[ $line == *"\"bound\":\"${figure#*:}\""* ]] || fail "bound of $line"
    for key in tokens_per_s bound_tokens_per_s share processor_share; do
        [[ $line =~ \"$key\":([0-9.]+) ]] || fail "no $key: $line"
        [[ ${BASH_REMATCH[1]} =~ [1-9] ]] || fail "$key is nothing: $line"
    done
done
"$joust" bench engine --shape 15m --figure decode "${small[@]}" >"$dir/out"
[ "$(grep -c " bound .* share " "$dir/out")" = 1 ] || fail "$(cat "$dir/out")"

refuse() {
    local text=$1 status=0
    shift
    "$joust" bench engine "$@" >/dev/null 2>"$dir/err" || status=$?
    [ $status -eq 2 ] && grep -q -e "$text" "$dir/err" || fail "bench engine $*: exit $status: $(cat "$dir/err")"
}

refuse "--figure fast" --figure fast
refuse "--shape 7b" --shape 7b
refuse "--repeat" --repeat 0
refuse "--save" --save "$dir/other"
