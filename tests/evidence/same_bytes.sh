#!/bin/bash
# Same job, same bytes. Runs one job quietly and in other shapes (other worker and judge counts, threads, instruction
# sets), then once while a random process of it is killed with SIGKILL every 0.3 to 3 seconds; compares SHA-256 of every
# round's exports and the digests of every checkpoint. Prints a table; exit status 1 if anything differs.
#
#   tests/evidence/same_bytes.sh [--joust PROGRAM] [--job FILE] [--kills N] [--out DIR] [--runs 'LIST'] [--set KEY=VALUE]...
#
# --set changes the job for all runs alike: --set rounds=12 gives 50 kills time on a fast machine. The job defaults to
# ops/jobs/quickstart.yaml; its data must have been made (ops/quickstart does).
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
joust=$root/build/release/joust job=$root/ops/jobs/quickstart.yaml kills=50
sets=() out=$(mktemp -d) runs="1x1 3x2 threads-1 threads-2 portable avx2 avx512 killed" only=
while [ $# -gt 0 ]; do
    case $1 in
    --joust) joust=$2 ;; --job) job=$2 ;; --kills) kills=$2 ;; --out) out=$2 ;; --runs) only=$2 ;; --set) sets+=(--set "$2") ;;
    *) echo "usage: $0 [--joust PROGRAM] [--job FILE] [--kills N] [--out DIR] [--runs 'LIST'] [--set KEY=VALUE]..." >&2; exit 2 ;;
    esac
    shift 2
done
runs=${only:-$runs}
mkdir -p "$out"

# One digest a line: each round's exports, and every checkpoint that made something in it.
digests() {
    local store=$1 rounds kind
    rounds=$("$joust" rounds --store "$store" --json | wc -l)
    for ((round = 0; round < rounds; round++)); do
        for kind in pairs trajectories verdicts; do
            echo "$kind $round $("$joust" $kind export --store "$store" --round "$round" | sha256sum | cut -d' ' -f1)"
        done
    done
    "$joust" trajectories export --store "$store" | grep -o '"lineage":"[^"]*","version":[0-9]*,"manifest":"[0-9a-f]*"' |
        sort -u | tr -d '"{}' | sed 's/^/checkpoint /'
    (cd "$store/checkpoints" && find . -type f | sort | xargs sha256sum | sed 's/^/final /')
}

# Kills a random one of the launcher's children, $kills times, then lets the job end.
killer() {
    local launcher=$1 log=$2 n=0 victims
    while [ $n -lt "$kills" ] && kill -0 "$launcher" 2>/dev/null; do
        sleep "$(awk -v r=$RANDOM 'BEGIN { printf "%.2f", 0.3 * exp(log(10) * r / 32767) }')" # 0.3 to 3, log-uniform
        mapfile -t victims < <(pgrep -P "$launcher" || true)
        [ ${#victims[@]} -gt 0 ] || continue
        local victim=${victims[RANDOM % ${#victims[@]}]}
        local name
        name=$(tr '\0' ' ' <"/proc/$victim/cmdline" 2>/dev/null | cut -d' ' -f2) || continue
        kill -9 "$victim" 2>/dev/null || continue
        n=$((n + 1))
        echo "$n $name" >>"$log"
    done
}

run() {
    local name=$1 store=$out/$1 shape=(--workers 1 --judges 1) start status=0
    local environment=()
    case $name in
    3x2 | killed) shape=(--workers 3 --judges 2) ;;
    threads-*) shape+=(--threads "${name#threads-}") ;;
    portable | avx2 | avx512) environment=(JOUST_ISA="$name") ;;
    esac
    rm -rf "$store" "$out/$name.kills"
    start=$(date +%s.%N)
    env "${environment[@]}" "$joust" launch "$job" --store "$store" "${shape[@]}" "${sets[@]}" >"$out/$name.log" 2>&1 &
    local launcher=$!
    if [ "$name" = killed ]; then
        killer $launcher "$out/$name.kills" &
    fi
    wait $launcher || status=$?
    local took
    took=$(awk -v a="$start" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f", b - a }')
    "$joust" store check --store "$store" >"$out/$name.check" 2>&1 && local sound=sound || local sound=DAMAGED
    digests "$store" >"$out/$name.digests"
    local first=${runs%% *} same=same
    cmp -s "$out/$first.digests" "$out/$name.digests" || same=DIFFERENT
    local dead=0
    [ ! -f "$out/$name.kills" ] || dead=$(wc -l <"$out/$name.kills")
    printf '%-10s exit %d  %8.1f s  %3d kills  store %-7s  %s\n' "$name" $status "$took" "$dead" $sound $same
    [ "$name" != killed ] || [ "$dead" -eq 0 ] || cut -d' ' -f2 "$out/$name.kills" | sort | uniq -c | sed 's/^/             killed:/'
    if [ $status -ne 0 ] || [ $sound != sound ] || [ $same != same ]; then
        failed=1
    fi
    if [ "$name" = killed ] && [ "$dead" -lt "$kills" ]; then
        echo "             the job ended before $kills kills: use a longer one (--set rounds=12)"
        failed=1
    fi
}

failed=0
for name in $runs; do
    run "$name"
done
echo "digests of the first run: $(sha256sum <"$out/${runs%% *}.digests" | cut -d' ' -f1) over $(wc -l <"$out/${runs%% *}.digests") lines"
exit $failed
