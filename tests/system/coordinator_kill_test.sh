#!/bin/sh
# coordinator_kill_test.sh KILLS: kills the coordinator with SIGKILL after a random 5 to 200 ms, again and again, under a small job
# with one worker and one judge started by hand, so that only the coordinator is started again, by this script. The
# exports equal the quiet run's, the store is sound, and no honest peer is sent away.
. "$(dirname "$0")/common.sh"
kills=${1:-12}
sed -i 's/grace_ms: [0-9]*/grace_ms: 600000/' "$dir/job.yaml" # a coordinator that dies so often may not be met for long

begin "$dir/quiet"
finish 0

store=$dir/killed
mkdir -m 700 "$dir/sockets"
work=ipc://$dir/sockets/work
for role in worker judge; do
    "$joust" $role --connect "$work" --name $role-0 --threads 1 --cache "$dir/$role-cache" >"$dir/$role.log" 2>&1 &
    others="$others $!"
done
peers=$others

delays=$(awk -v n="$kills" -v seed="${SEED:-1}" \
    'BEGIN { srand(seed); for (i = 0; i < n; i++) printf "%.3f\n", 0.005 + 0.195 * rand() ^ 2 }')
done_kills=0
for delay in $delays; do
    "$joust" coordinator "$dir/job.yaml" --store "$store" --listen "$work" --status "ipc://$dir/sockets/status" \
        >>"$dir/coordinator.log" 2>&1 &
    coordinator=$!
    others="$peers $coordinator"
    # from when it has begun to take part, so that the job moves at all
    [ $((done_kills % 4)) != 0 ] || await "$joust" status --store "$store"
    sleep "$delay"
    kill -9 $coordinator 2>/dev/null || break
    wait $coordinator 2>/dev/null || true
    others=$peers
    done_kills=$((done_kills + 1))
done
"$joust" coordinator "$dir/job.yaml" --store "$store" --listen "$work" --status "ipc://$dir/sockets/status" \
    >>"$dir/coordinator.log" 2>&1 || fail "the coordinator ended with $?: $(tail -n 3 "$dir/coordinator.log")"
same "$dir/quiet" "$store"
for role in worker judge; do
    ! grep -H " error \|sent away" "$dir/$role.log" || fail "the $role was blamed"
done
! grep -H "sent away" "$dir/coordinator.log" || fail "an honest peer was sent away"
echo "$done_kills kills of the coordinator; resumed in:"
sed -n 's/.*resumes \(round [0-9]*\).*/\1/p' "$dir/coordinator.log" | sort | uniq -c
cat "$dir/quiet.digests"
