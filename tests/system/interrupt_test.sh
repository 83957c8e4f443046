#!/bin/sh
# ctrl-C ends a launch in under 2 seconds with status 130; the same command goes on and ends with the same result.
# joust status says where a job stands that nobody runs: 3 while it can go on, 0 once it has ended; or that is run
# without a status socket.
. "$(dirname "$0")/common.sh"

# stands STORE STATUS LINE WHY: what joust status must say of it.
stands() {
    status=0
    said=$("$joust" status --store "$1" --timeout-ms 200) || status=$?
    [ $status = "$2" ] || fail "joust status: $status, expected $2: $said"
    echo "$said" | sed -n 1p | grep -qx "$3" || fail "joust status says '$said', expected '$3'"
    echo "$said" | sed -n 2p | grep -qx "$4" || fail "joust status says '$said', expected '$4'"
}

begin "$dir/quiet"
finish 0

begin "$dir/cut"
await grep -q "round 1/2 · generate" "$dir/cut.out"
asked=$(now)
kill -INT "$launcher"
finish 130
took=$(($(now) - asked))
[ $took -lt 2000 ] || fail "it took $took ms to end"
gone "$dir/cut" 0
grep -q "the same command goes on" "$dir/cut.out" || fail "nothing says how to resume"

stands "$dir/cut" 3 "system is not running, round [12] of 2" "nobody runs it: the same launch resumes"

# A copy has no coordinator, even while the original has; one that doesn't answer is named.
begin "$dir/live" --set rounds=500
await "$joust" status --store "$dir/live"
coordinator=$(roles "$dir/live" coordinator)
kill -STOP "$coordinator"
cp -r "$dir/live" "$dir/copy"
stands "$dir/copy" 3 "system is not running, round [0-9]* of 500" "nobody runs it: the same launch resumes"
stands "$dir/live" 3 "system is running, round [0-9]* of 500" "its coordinator, process $coordinator, doesn't answer.*"
kill -CONT "$coordinator"
kill -INT "$launcher"
finish 130
"$joust" status --store "$dir/cut" --json >"$dir/status" || true
[ "$(grep -o '"why":"[^"]*"' "$dir/status" | sort -u)" = '"why":"nobody runs it: the same launch resumes"' ] ||
    fail "two reasons: $(cat "$dir/status")"

# One without a status socket runs it all the same, whatever socket an earlier one left.
"$joust" coordinator "$dir/job.yaml" --store "$dir/cut" --listen "ipc://$dir/mute.work" >"$dir/mute.out" 2>&1 &
others=$!
await test -S "$dir/mute.work"
stands "$dir/cut" 0 "system is running, round [12] of 2" "its coordinator, process $others, runs it without a status socket.*"
kill "$others"
wait "$others" || true
others=""
stands "$dir/cut" 3 "system is not running, round [12] of 2" "nobody runs it: the same launch resumes"

begin "$dir/cut"
finish 0
stands "$dir/cut" 0 "system is complete after round 2" "the job is complete"
# Whatever became of the socket.
echo "nonsense" >"$dir/cut/status.endpoint"
stands "$dir/cut" 0 "system is complete after round 2" "the job is complete"
same "$dir/quiet" "$dir/cut"
[ -z "$(ls "$XDG_RUNTIME_DIR")" ] || fail "who looks leaves $(ls "$XDG_RUNTIME_DIR")"

# Nor does a reader that is cut off.
mkdir "$dir/tmp"
TMPDIR="$dir/tmp" "$joust" trajectories export --store "$dir/cut" | head -n 1 >/dev/null
[ -z "$(ls "$dir/tmp")" ] || fail "a reader that was cut off left $(ls "$dir/tmp")"
echo "ended in $took ms and resumed"
