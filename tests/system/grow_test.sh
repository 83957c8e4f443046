#!/bin/sh
# A complete job that is given more rounds goes on, ends as if it had had them from the start, and its checkpoint is the
# new last version. A folder of somebody else's in the checkpoint's place is left alone and named.
. "$(dirname "$0")/common.sh"

begin "$dir/whole"
finish 0

begin "$dir/grown" --set rounds=1
finish 0
before=$(sha256sum <"$dir/grown/checkpoints/policy/model.safetensors")
begin "$dir/grown"
finish 0
same "$dir/whole" "$dir/grown"
grep -q "^checkpoint  *$dir/grown/checkpoints/policy (version [12][^)]*)$" "$dir/grown.out" || fail "no version is told"
grep -q "already complete" "$dir/grown.out" && fail "a job that has grown was complete"
begin "$dir/grown"
finish 0
grep -q "^already complete: nothing was left to do" "$dir/grown.out" || fail "nothing says that it was complete"
cmp "$dir/whole/checkpoints/policy/model.safetensors" "$dir/grown/checkpoints/policy/model.safetensors" ||
    fail "the checkpoint isn't the last version"
[ "$before" != "$(sha256sum <"$dir/grown/checkpoints/policy/model.safetensors")" ] || fail "the rounds changed nothing"

echo mine >"$dir/grown/checkpoints/policy/model.safetensors"
begin "$dir/grown"
finish 1
grep -q "holds something else" "$dir/grown.out" || fail "nothing says why"
[ "$(cat "$dir/grown/checkpoints/policy/model.safetensors")" = mine ] || fail "somebody's file was replaced"
echo "grown by a round"

# Weights that are gone from the store end the job after three tries, with what can be done.
begin "$dir/lost" --set rounds=1
finish 0
find "$dir/lost/blobs" -type f -size +50k -delete
rm -rf "$dir/lost/cache"
begin "$dir/lost"
finish 1
grep -q "failure 3 of 3: .*has lost chunk [0-9a-f]*…: restore its blobs" "$dir/lost/logs/coordinator.log" ||
    fail "nothing says that weights are lost: $(tail -n 3 "$dir/lost/logs/coordinator.log")"
