#!/bin/sh
# kill_test.sh KILLS [SECONDS_MIN SECONDS_MAX]: a random role, the coordinator included, is killed every so often, and
# after half of the kills the launcher too; the result is the quiet run's, and nobody is left behind. MOST_TIMES_SLOWER in
# the environment bounds the time against the quiet run's, and then all kills must have happened.
. "$(dirname "$0")/common.sh"
kills=${1:-6}
least=${2:-0.3}
most=${3:-0.8}

began=$(now)
begin "$dir/quiet"
finish 0
quiet_ms=$(($(now) - began))

# The random numbers are those of the awk seed, so that a run can be repeated in its intent if not in its times.
plan=$(awk -v n="$kills" -v a="$least" -v b="$most" -v seed="${SEED:-1}" \
    'BEGIN { srand(seed); for (i = 0; i < n; i++) print a + (b - a) * rand(), int(1e6 * rand()) }')

done_kills=0
relaunched=no
began=$(now)
begin "$dir/killed"
while [ "$done_kills" -lt "$kills" ]; do
    set -- $(echo "$plan" | sed -n "$((done_kills + 1))p")
    sleep "$1"
    if ! kill -0 "$launcher" 2>/dev/null; then
        break # the job ended under our hands
    fi
    if [ $relaunched = no ] && [ $((2 * done_kills)) -ge "$kills" ]; then
        kill -9 "$launcher"
        finish 137
        gone "$dir/killed" 10000
        begin "$dir/killed"
        relaunched=yes
        continue
    fi
    victims=$(roles "$dir/killed")
    n=$(echo "$victims" | wc -w)
    [ "$n" -gt 0 ] || continue
    victim=$(echo $victims | cut -d' ' -f$(($2 % n + 1)))
    kill -9 "$victim" 2>/dev/null && done_kills=$((done_kills + 1))
done
finish 0
killed_ms=$(($(now) - began))
gone "$dir/killed" 10000
[ "$done_kills" -gt 0 ] || fail "the job ended before anything could be killed"
same "$dir/quiet" "$dir/killed"
if [ -n "${MOST_TIMES_SLOWER-}" ]; then
    [ "$done_kills" -ge "$kills" ] || fail "only $done_kills kills before the job ended"
    [ $killed_ms -le $((MOST_TIMES_SLOWER * quiet_ms)) ] || fail "$killed_ms ms against $quiet_ms ms quiet"
fi
echo "$done_kills kills, launcher killed: $relaunched; quiet $quiet_ms ms, killed $killed_ms ms; same result:"
cat "$dir/quiet.digests"
