#!/bin/bash
# [TESTS=PATTERN] sanitizers.sh [PRESET ...]: builds the presets asan-ubsan and tsan (or those named) and runs every test
# (or those whose name matches) under them, the system tests with their real processes included. Prints a line a
# preset and every test that failed; exit status 1 if one did, or if any process wrote a report, a role whose
# output nobody reads included. What TSan is told to pass over, and why, is in tests/tsan.supp.
set -euo pipefail
cd "$(dirname "$0")/../.."
[ $# -gt 0 ] || set -- asan-ubsan tsan
root=$PWD
launcher=""
! command -v ccache >/dev/null || launcher=-DCMAKE_C_COMPILER_LAUNCHER=ccache

echo "== $(git describe --always --dirty --abbrev=40), $(date -u '+%Y-%m-%d %H:%M UTC'), $(nproc) cores," \
    "$(cc --version | head -n 1)"
bad=0
for preset; do
    build=build/$preset
    cmake --preset "$preset" $launcher >/dev/null
    cmake --build "$build" -j "$(nproc)" >"$build/build.log" 2>&1 || {
        grep -E 'error|FAILED' "$build/build.log"
        exit 1
    }
    rm -f "$build"/report.*
    said=log_path=$root/$build/report
    export ASAN_OPTIONS=abort_on_error=1:detect_leaks=1:$said UBSAN_OPTIONS=print_stacktrace=1:$said
    export TSAN_OPTIONS=suppressions=$root/tests/tsan.supp:$said
    began=$(date +%s)
    ctest --test-dir "$build" -LE '^(long|gpu)$' ${TESTS:+-R "$TESTS"} -j "$(nproc)" --timeout 600 --output-on-failure \
        >"$build/ctest.log" 2>&1 || bad=1
    grep -E 'tests passed' "$build/ctest.log" | sed "s/^/$preset: /; s/\$/, $(($(date +%s) - began)) s/"
    sed -n '/The following tests/,$p' "$build/ctest.log" | grep -vE '^Errors|^$' || true
    for report in "$build"/report.*; do
        [ -f "$report" ] || continue
        bad=1
        echo "$preset: $report: $(grep -m 1 -E 'WARNING|ERROR|runtime error' "$report" || head -n 1 "$report")"
    done
done
echo "== load average at the end $(cut -d' ' -f1-3 /proc/loadavg)"
exit $bad
