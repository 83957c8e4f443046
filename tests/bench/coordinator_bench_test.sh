#!/bin/bash
# The benchmark counts right: what it says is durable is what a store of it holds, sound and complete. No figure of time
# is looked at. JOUST_BUILD is the build folder.
set -euo pipefail
joust=$JOUST_BUILD/joust
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
export TMPDIR=$dir/tmp
mkdir "$TMPDIR"

fail() {
    echo "$*" >&2
    exit 1
}

# The value of a key of the object printed last.
value() {
    grep -o "\"$1\":[0-9.]*" "$dir/out" | cut -d: -f2
}

# bench TRAJECTORIES BYTES PAIRS OPTION ...: runs it and holds its store against what it says.
bench() {
    local trajectories=$1 bytes=$2 pairs=$3
    shift 3
    rm -rf "$dir/store"
    "$joust" bench coordinator --repeat 1 --json --bytes "$bytes" --store "$dir/store" "$@" >"$dir/out"
    [ "$(value trajectories)" = "$trajectories" ] || fail "trajectories: $(cat "$dir/out")"
    [ "$(value verdicts)" = "$trajectories" ] || fail "verdicts: $(cat "$dir/out")"
    [ "$(value pairs)" = "$pairs" ] || fail "pairs: $(cat "$dir/out")"
    local told
    told=$(value bytes)
    [ "$((told - bytes))" -lt 16 ] && [ "$((bytes - told))" -lt 16 ] || fail "$bytes bytes became $told"
    for kind in trajectories verdicts; do
        [ "$("$joust" $kind export --store "$dir/store" | wc -l)" = "$trajectories" ] || fail "$kind of the store"
    done
    [ "$("$joust" pairs export --store "$dir/store" | wc -l)" = "$pairs" ] || fail "pairs of the store"
    "$joust" store check --store "$dir/store" >/dev/null || fail "the store isn't sound"
    [ -z "$(ls "$TMPDIR")" ] || fail "left behind: $(ls "$TMPDIR")"
}

bench 200 2048 25 --trajectories 200
bench 203 51200 29 --trajectories 200 --samples 7 --workers 3 --judges 2 --window 3 # whole groups: rounded up

refuse() {
    local text=$1 status=0
    shift
    "$joust" bench "$@" >/dev/null 2>"$dir/err" || status=$?
    [ $status -eq 2 ] && grep -q -e "$text" "$dir/err" || fail "bench $*: exit $status: $(cat "$dir/err")"
    [ -z "$(ls "$TMPDIR")" ] || fail "left behind: $(ls "$TMPDIR")"
}

refuse "known are coordinator and engine" worker
refuse "--window" coordinator --window 0
refuse "--bytes 7" coordinator --bytes 7
refuse "--workers" coordinator --workers 60 --judges 60
refuse "is there already" coordinator --store "$dir/store"
