#!/bin/sh
# Grammars through launch: every response that ends is a text of the grammar, or JSON that fits the schema, whatever the shape of the
# cluster; a rule judges it and training goes on; files that are wrong are refused by their place.
. "$(dirname "$0")/common.sh"

# A vocabulary of the printable characters, space and newline, with tokens that cross a grammar's rules.
awk 'BEGIN {
    printf "{\"added_tokens\":["
    n = split("<pad> <unk> <bos> <eos> <ans> <judge>", special, " ")
    for (i = 1; i <= n; i++)
        printf "%s{\"id\":%d,\"content\":\"%s\",\"special\":true}", (i > 1 ? "," : ""), i - 1, special[i]
    printf "],\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false},\"decoder\":{\"type\":\"ByteLevel\"},"
    printf "\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{"
    for (i = 1; i <= n; i++)
        printf "\"%s\":%d,", special[i], i - 1
    for (c = 33; c < 127; c++)
        printf "\"%s%c\":%d,", (c == 34 || c == 92 ? "\\" : ""), c, c - 27
    printf "\"Ġ\":100,\"Ċ\":101,\"{\\\"\":102,\"\\\":\":103,\"true\":104,\"}}\":105,\",\\\"\":106,\"]}\":107}}}"
}' >"$dir/data/tokenizer.json"
sed -i -e 's/"vocab_size": [0-9]*/"vocab_size": 108/' -e 's/"max_position_embeddings": [0-9]*/"max_position_embeddings": 512/' "$dir/data/config.json"
sed -i -e '/^promote:/d' -e '/^evaluate:/d' -e '/name: self/d' -e 's/^rounds: .*/rounds: 1/' -e 's/per_round: 24/per_round: 8/' \
    -e 's/max_tokens: 20/max_tokens: 48/' \
    -e 's/  - {name: exact.*/  - {name: ok, kind: rule, rule: regex, pattern: "true"}/' \
    -e 's/^train: .*/train: {learning_rate: 1e-4, batch_size: 4, max_steps: 3}/' "$dir/job.yaml"

cat >"$dir/answer.json" <<'END'
{"type": "object", "properties": {"ok": {"type": "boolean"}, "n": {"$ref": "#/$defs/digit"}},
 "required": ["ok"], "additionalProperties": false, "$defs": {"digit": {"enum": [1, 2, 3]}}}
END
cat >"$dir/sum.gbnf" <<'END'
root ::= term ("+" term){0,2} # a sum
term ::= [0-9] | "(" root ")" | "true"
END

# answers STORE: "FINISH RESPONSE" of each.
answers() {
    "$joust" trajectories export --store "$1" |
        sed -e 's/.*"response":"\(.*\)","id":"r[^"]*",.*"finish":"\([^"]*\)".*/\2 \1/' -e 's/\\"/"/g' -e 's/\\n/ /g' -e 's/   */ /g'
}

# masked NAME PATTERN SETTING
masked() {
    SETS="--set $3"
    begin "$dir/$1" --workers 1 --judges 1
    finish 0
    begin "$dir/$1-again" --workers 2 --judges 1 --set cluster.threads=2
    finish 0
    answers "$dir/$1" >"$dir/$1.answers"
    [ "$(grep -c '^stop ' "$dir/$1.answers")" -ge 8 ] || fail "$1: few responses ended: $(cat "$dir/$1.answers")"
    ! grep '^stop ' "$dir/$1.answers" | grep -v -E -x "stop ($2)" || fail "$1: a response that isn't allowed"
    "$joust" trajectories export --store "$dir/$1" | sort >"$dir/one"
    "$joust" trajectories export --store "$dir/$1-again" | sort >"$dir/two"
    cmp "$dir/one" "$dir/two" || fail "$1: the bytes depend on the cluster's shape"
}
masked schema '\{ ?"ok": ?(true|false)(, ?"n": ?[123])? ?\}' "rollout.json_schema=$dir/answer.json"
masked grammar '[0-9true+()]+' "rollout.grammar=$dir/sum.gbnf"

# refused KEY FILE PART
refused() {
    status=0
    "$joust" validate "$dir/job.yaml" --set rollout.$1="$2" >"$dir/refused" 2>&1 || status=$?
    [ $status = 2 ] && grep -q "$3" "$dir/refused" || fail "$2: $(cat "$dir/refused")"
}
printf 'root ::= "a"\n  x y\n' >"$dir/bad.gbnf"
refused grammar "$dir/bad.gbnf" "rollout.grammar: $dir/bad.gbnf:2:5: expected ::="
echo '{"properties": {"a": {"format": "date"}}}' >"$dir/bad.json"
refused json_schema "$dir/bad.json" "rollout.json_schema: $dir/bad.json: #/properties/a: format: this keyword"
refused grammar "$dir/none.gbnf" "no file"
refused "regex=a --set rollout.grammar" "$dir/sum.gbnf" "rollout.grammar: either regex or grammar"

