#!/bin/bash
# fuzz.sh [SECONDS [TARGET ...]]: builds the fuzz preset and runs every decoder's fuzzer (or the targets named) for so many
# seconds (600), two at a time, from the committed corpora, under AddressSanitizer and UndefinedBehaviorSanitizer. What
# reaches code that the corpus did not is merged into tests/fuzz/corpus. Prints executions, edges reached and
# findings of each; exit status 1 if there is a finding. Its input lies in build/fuzz/evidence then.
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=${1:-600}
[ $# -eq 0 ] || shift
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(ls tests/fuzz/corpus)
export seconds out=build/fuzz/evidence programs=build/fuzz/tests/fuzz

# Files that a person put into a corpus are kept; the fuzzers' own are named by their digest.
digest_name='^[0-9a-f]{12,40}$'
export digest_name

fuzz_one() {
    local target=$1 corpus=tests/fuzz/corpus/$1 here=$out/$1 status=0
    rm -rf "$here"
    mkdir -p "$here/new" "$here/kept" "$here/found"
    nice -n 15 "$programs/fuzz_$target" -max_total_time="$seconds" -timeout=25 -report_slow_units=25 -rss_limit_mb=2048 \
        -print_final_stats=1 -artifact_prefix="$here/found/" "$here/new" "$corpus" >"$here/log" 2>&1 || status=$?
    # The smallest set that reaches the same edges: counts of how often are left out, or the corpus would be hundreds.
    find "$corpus" -type f | grep -vE "/${digest_name#^}" | xargs -r cp -t "$here/kept"
    nice -n 15 "$programs/fuzz_$target" -merge=1 -use_counters=0 -timeout=25 -report_slow_units=25 -rss_limit_mb=2048 \
        -artifact_prefix="$here/found/merge-" "$here/kept" "$corpus" "$here/new" >"$here/merge.log" 2>&1 || status=$?
    echo "$status" >"$here/status"
}
export -f fuzz_one

# number LOG PATTERN: the last number that follows PATTERN.
number() {
    sed -nE "s/.*$2 *([0-9]+).*/\1/p" "$1" | tail -n 1
}

cmake --preset fuzz >/dev/null
nice -n 15 cmake --build build/fuzz -j 2 --target "${targets[@]/#/fuzz_}" >/dev/null
mkdir -p "$out"
echo "== $(git describe --always --dirty --abbrev=40), $(date -u '+%Y-%m-%d %H:%M UTC'), $(nproc) cores," \
    "$(clang --version | head -n 1)"
echo "== tests/evidence/fuzz.sh $seconds ${targets[*]}"
printf '%s\n' "${targets[@]}" | xargs -P 2 -I TARGET bash -c 'fuzz_one TARGET'
echo "== load average at the end $(cut -d' ' -f1-3 /proc/loadavg)"

found=0
printf '%-12s %12s %8s %8s %16s %8s\n' target executions seconds edges corpus findings
for target in "${targets[@]}"; do
    here=$out/$target corpus=tests/fuzz/corpus/$target
    findings=$(find "$here/found" -type f | wc -l)
    ran=$(sed -nE 's/^Done .* in ([0-9]+) second.*/\1/p' "$here/log" | tail -n 1)
    if [ "$(cat "$here/status")" -ne 0 ] || [ "$findings" -gt 0 ] || [ -z "$ran" ]; then
        found=1
        findings="$findings (see $here/log)"
    else
        find "$corpus" -type f -delete
        cp "$here/kept"/* "$corpus/"
    fi
    printf '%-12s %12s %8s %8s %10s, %3s KB %8s\n' "$target" "$(number "$here/log" number_of_executed_units:)" \
        "${ran:--}" "$(number "$here/log" cov:)" "$(find "$corpus" -type f | wc -l) files" \
        "$(($(cat "$corpus"/* | wc -c) / 1000))" "$findings"
done
exit $found
