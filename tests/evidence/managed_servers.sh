#!/bin/sh
# Three rounds over four managed servers, one of which keeps stale weights after publishing, one has another model, one never
# becomes ready: tests/system/managed_test.sh with more prompts, and every line in which the worker names a server. What it checks:
# no answer of other weights is trained on (max_logp_gap is 0 in each round: the trainer's log-probs of all that was paired, at
# the promoted weights, equal those recorded, to the last bit), the server with another model and the one that isn't ready were asked nothing but
# probes, the stale one nothing after version 0, each is named, the job ends; and that after SIGKILL of worker, coordinator
# and launcher no server lives on for 10 s.
#   tests/evidence/managed_servers.sh [ROUNDS [PROMPTS-A-ROUND]]
root=$(cd "$(dirname "$0")/../.." && pwd)
export JOUST_BUILD="${JOUST_BUILD:-$root/build/release}" NAMED=1
date -u +"%Y-%m-%d, $(git -C "$root" rev-parse --short HEAD), $(nproc) processors"
exec "$root/tests/system/managed_test.sh" "${1:-3}" "${2:-96}"
