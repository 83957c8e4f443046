# Sourced after common.sh by tests whose servers keep a log of what they were asked.
log=$dir/requests

# serve NAME OPTION ...: a server process; its URL goes to $dir/NAME.url
serve() {
    name=$1
    shift
    "$JOUST_BUILD/endpoint_server" --model test --log "$log.$name" --slow-ms 3000 --answer-ms 20 "$@" >"$dir/$name.url" &
    others="$others $!"
    await test -s "$dir/$name.url"
}

# durable STORE [KIND]: ids of the recorded answers (or verdicts), in order
durable() {
    "$joust" "${2-trajectories}" export --store "$1" 2>/dev/null | sed 's/.*"id":"\(r[0-9.a-z]*\)".*/\1/' | sort
}

# asked [ok]: "MS ID" of all requests (whole answers) to the servers named in $watched so far, without the probes
asked() {
    for name in $watched; do
        cat "$log.$name"
    done | awk -v what="${1:-ask}" '$2 == what && $3 != "probe" { print $1, $3 }'
}

# until_ms MS, since_ms MS: ids of "MS ID" lines
until_ms() {
    awk -v at="$1" '$1 <= at { print $2 }' | sort -u
}
since_ms() {
    awk -v at="$1" '$1 > at { print $2 }' | sort -u
}

# figure NAME [STAGE]: its sum over the rounds, of that stage or of all
figure() {
    "$joust" rounds --store "$store" --json | sed 's/{"name":"/\n&/g' | grep -F "{\"name\":\"${2-}" |
        grep -o "\"$1\":{\"value\":[0-9]*" | awk -F: '{ s += $3 } END { print s + 0 }'
}

# check_counts ANSWERS [STAGE]: what was asked for so many answers is what the job counts, and no more again than was in flight.
check_counts() {
    requests=$(figure requests "${2-}")
    reasked=$(figure re_asked "${2-}")
    [ "$again" -le "$reasked" ] || fail "$again requests were asked again, $reasked are counted"
    [ "$requests" = "$(($1 + reasked))" ] || fail "$requests requests, $reasked of them again"
    [ "$again" -le "$in_flight" ] || fail "$again requests were asked again, $in_flight were in flight"
    echo "$k kills; $requests requests given out, $reasked of them again by the job's count; by the servers' logs $again were" \
        "asked again after a kill, of $in_flight in flight; $(figure retries "${2-}") retries"
    for name in $watched; do
        cat "$log.$name"
    done | awk '$3 != "probe" { n[$2]++ } END { for (w in n) printf "  %s %d\n", w, n[w] }' | sort
}

# kill_and_watch COUNT KIND PROCESS ...: kills the roles of that name with SIGKILL COUNT times, in turn and together, and notes
# what was durable and what was in flight; then waits for the job's end. Sets k, in_flight, again; $dir/violations lists what
# was asked though it was durable.
kill_and_watch() {
    count=$1
    kind=$2
    role=$3
    delays=$(awk -v n="$count" -v seed="${SEED:-1}" 'BEGIN { srand(seed); for (i = 0; i < n; i++) printf "%.2f\n", 0.8 + 1.5 * rand() }')
    begin "$store"
    k=0
    in_flight=0
    again=0
    : >"$dir/violations"
    for delay in $delays; do
        sleep "$delay"
        [ "$k" != 0 ] || await test -s "$log.${watched%% *}"
        victims=$(choose)
        while [ -z "$victims" ] && kill -0 "$launcher" 2>/dev/null; do # they are just being started again
            sleep 0.1
            victims=$(choose)
        done
        [ -n "$victims" ] || break # the job is over
        kill -9 $victims 2>/dev/null || true
        # What is durable now was so before the kill or became so in these milliseconds; in flight is what was asked and isn't.
        at=$(now)
        durable "$store" "$kind" >"$dir/in.$k"
        now >"$dir/seen.$k"
        asked | until_ms "$at" >"$dir/asked.$k"
        in_flight=$((in_flight + $(comm -23 "$dir/asked.$k" "$dir/in.$k" | wc -l)))
        # Who lives on tries again what failed: there only answers that were whole count as lost.
        [ $((k % 3)) != 1 ] || asked ok | until_ms "$at" >"$dir/asked.$k"
        echo "$at" >"$dir/at.$k"
        k=$((k + 1))
        "$joust" status --store "$store" >/dev/null 2>&1 || true
    done
    finish 0
    # Asked after it was seen to be durable: never. Asked before a kill and after it, up to the next: again.
    i=0
    while [ "$i" -lt "$k" ]; do
        asked | since_ms "$(cat "$dir/seen.$i")" | comm -12 - "$dir/in.$i" >>"$dir/violations"
        end=9999999999999
        [ "$((i + 1))" = "$k" ] || end=$(cat "$dir/at.$((i + 1))")
        asked | awk -v end="$end" '$1 <= end' | since_ms "$(cat "$dir/at.$i")" | comm -12 - "$dir/asked.$i" >"$dir/after"
        again=$((again + $(wc -l <"$dir/after")))
        i=$((i + 1))
    done
    [ ! -s "$dir/violations" ] || fail "asked again though durable: $(sort -u "$dir/violations" | head -n 5 | tr '\n' ' ')"
}

# choose: who is killed next
choose() {
    [ $((k % 3)) = 1 ] || roles "$store" "$role"
    [ $((k % 3)) = 0 ] || roles "$store" coordinator
}
