#!/bin/sh
# Fifty steps of each loss that TRL has, side by side with TRL on the same random Llama, pairs, order and schedule.
#
#   tests/evidence/trl_curves.sh [PYTHON]
#
# PYTHON has torch, transformers and trl. Prints the result; exit status 1 where a step's loss is off by more than 1%.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
python=${1:-python3}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
echo "trl_curves: $(date -u +%Y-%m-%d), $(git -C "$root" rev-parse --short HEAD)"
"$python" - <<'END'
import torch, transformers, trl
print(f"torch {torch.__version__}, transformers {transformers.__version__}, trl {trl.__version__}")
END
"$python" "$root/tests/evidence/trl_curves.py" "${JOUST_BUILD:-$root/build/release}/tests/engine/compute/train_curve" \
    "$out" 2>"$out/stderr" || { status=$?; tail -n 5 "$out/stderr" >&2; exit $status; }
