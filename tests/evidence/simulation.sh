#!/bin/bash
# simulation.sh [SEEDS]: `joust sim` over so many seeds (1000), each 2 rounds of 16 groups on 3 workers and 2 judges. Checks
# what it prints: nothing found, every kind of fault at least 1,000 times, every legal cell of the unit table visited.
# Then the ten faults that can be planted around the coordinator: each must be found within as many seeds, for the
# reason it should be. Exit status 1 if anything is amiss. About a minute on two cores.
set -euo pipefail
cd "$(dirname "$0")/../.."
seeds=${1:-1000}
least=1000
preset=release
build=build/$preset
out=$(mktemp)
trap 'rm -f "$out"' EXIT

cmake --preset $preset >/dev/null
cmake --build $build --target joust plants_test simulation_test >/dev/null
echo "== $(git describe --always --dirty --abbrev=40), $(date -u '+%Y-%m-%d %H:%M UTC'), $(nproc) cores"
echo "== joust sim --seeds $seeds --rounds 2 --groups 16 --workers 3 --judges 2"
time $build/joust sim --seeds "$seeds" --rounds 2 --groups 16 --workers 3 --judges 2 | tee "$out"

# Faults are the indented lines that hold no "x": a name and a count.
awk -v least=$least '
    /^  / && !/ x / { kinds++; if ($NF < least) { print "FAILED: only" $0; bad = 1 } else few = few == "" || $NF < few ? $NF : few }
    / legal cells / { cells = $1 == $3 && $1 > 0 }
    / seeds found something/ { clean = $1 == 0 && $3 > 0 }
    END {
        if (!kinds || bad || !cells || !clean) { print "FAILED: see above"; exit 1 }
        print "== " kinds " kinds of faults, each at least " few " times; every legal cell visited; nothing found"
    }' "$out"

echo "== plants_test $seeds"
time $build/tests/sim/plants_test "$seeds"
echo "== simulation_test $seeds"
time $build/tests/sim/simulation_test "$seeds"
