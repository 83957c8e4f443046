#!/bin/sh
# coordinator_kills.sh BUILD [KILLS]: the coordinator alone is killed every 5 to 200 ms, 300 times unless told; see
# tests/system/coordinator_kill_test.sh. It prints in which round it resumed how often.
set -eu
cd "$(dirname "$0")/../system"
JOUST_BUILD=$(cd "../../${1:-build/release}" && pwd)
export JOUST_BUILD
echo "== $(git rev-parse HEAD), $(date -u +%Y-%m-%d), $(nproc) cores"
./coordinator_kill_test.sh "${2:-300}"
