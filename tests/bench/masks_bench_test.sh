#!/bin/bash
# masks_bench measures every kind of mask and divides by a step that took time. No figure is compared with another.
# JOUST_BUILD is the build folder.
set -euo pipefail
bench=$JOUST_BUILD/tests/bench/masks_bench
out=$("$bench" --synthetic 600 --steps 20)
for rule in choices "regex, digits" "grammar, sums" "schema, recursive"; do
    line=$(grep "^$rule " <<<"$out") || { echo "no $rule: $out" >&2; exit 1; }
    read -r steps _ median _ <<<"${line:18}"
    [ "$steps" = 20 ] && [[ $median =~ [1-9] ]] || { echo "$line" >&2; exit 1; }
done
status=0
"$bench" --synthetic 7 2>/dev/null || status=$?
[ $status = 2 ]
