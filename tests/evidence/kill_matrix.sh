#!/bin/sh
# kill_matrix.sh BUILD: 50 kills of a random role, one every 0.3 to 3 seconds, and one of the launcher, under a job of a few
# minutes. The exports of pairs, trajectories and verdicts equal the quiet run's, the store is clean, nobody is left
# behind, and it takes at most 4 times as long. Then the result for other numbers of processes and threads and for
# each instruction set.
set -eu
cd "$(dirname "$0")/../system"
JOUST_BUILD=$(cd "../../${1:-build/release}" && pwd)
export JOUST_BUILD
echo "== $(git rev-parse HEAD), $(date -u +%Y-%m-%d), $(nproc) cores"
SETS="--set rounds=40 --set prompts.per_round=150 --set train.max_steps=120 --set train.save_every=10" \
    MOST_TIMES_SLOWER=4 ./kill_test.sh 50 0.3 3
./shape_test.sh portable avx2 avx512
./interrupt_test.sh
