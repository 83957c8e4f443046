#!/bin/bash
# The main job over seeds and arms: what README and tests/evidence/quickstart_table.md claim. Makes the data, the three
# starting checkpoints and every run from nothing; about an hour on two cores.
#
#   tests/evidence/quickstart_table.sh [--joust PROGRAM] [--out DIR] [--runs FILE]
#
# Prints a Markdown table. Arms differ from ops/jobs/quickstart.yaml by the keys shown. Needs python3 to read JSON.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
joust=$root/build/release/joust out=$(mktemp -d)
while [ $# -gt 0 ]; do
    case $1 in
    --joust) joust=$2 ;; --out) out=$2 ;;
    *) echo "usage: $0 [--joust PROGRAM] [--out DIR]" >&2; exit 2 ;;
    esac
    shift 2
done
mkdir -p "$out"
data_program=$(dirname "$joust")/quickstart_data

# A starting checkpoint from seed N: data, weights and order are drawn by it. Seed 1 must be the one that ships.
base() {
    local seed=$1 data=$out/data-$1
    [ -d "$out/base-$seed" ] && return
    # Base 1 is of the problems that ops/quickstart makes; all are tested on these.
    if [ "$seed" = 1 ]; then
        "$data_program" --out "$data" >"$out/data-$seed.log"
    else
        "$data_program" --out "$data" --seed "10$seed" >"$out/data-$seed.log"
    fi
    "$joust" launch "$root/ops/jobs/quickstart-base.yaml" --store "$out/store-base-$seed" --workers 1 --judges 0 \
        --set seed="$seed" --set models.policy.path="$data" --set models.policy.init="$seed" \
        --set stages[0].train.data="$data/base-steps.jsonl" --set stages[1].train.data="$data/base-problems.jsonl" \
        >"$out/base-$seed.log" 2>&1
    cp -r "$out/store-base-$seed/checkpoints/policy" "$out/base-$seed"
}

# run ARM BASE SEED [KEY=VALUE ...]
run() {
    local arm=$1 base=$2 seed=$3 name=$1-$2-$3 settings=()
    shift 3
    for setting; do settings+=(--set "$setting"); done
    [ -f "$out/$name.json" ] && return
    rm -rf "$out/store-$name"
    local began
    began=$(date +%s.%N)
    "$joust" launch "$root/ops/jobs/quickstart.yaml" --store "$out/store-$name" --set seed="$seed" \
        --set models.policy.path="$out/base-$base" --set prompts.file="$out/data-1/rounds.jsonl" \
        --set promote.prompts="$out/data-1/validation.jsonl" --set evaluate.prompts="$out/data-1/test.jsonl" \
        "${settings[@]}" >"$out/$name.log" 2>&1
    "$joust" rounds --store "$out/store-$name" --json >"$out/$name.rounds"
    python3 - "$arm" "$base" "$seed" "$(awk -v a="$began" -v b="$(date +%s.%N)" 'BEGIN { print b - a }')" \
        "$out/$name.rounds" >"$out/$name.json" <<'PYTHON'
import json, sys
arm, base, seed, seconds, path = sys.argv[1:]
rounds = [json.loads(line) for line in open(path)]
row = {"arm": arm, "base": int(base), "seed": int(seed), "seconds": float(seconds), "rounds": []}
for r in rounds:
    m = {k: v["value"] for s in r["stages"] for k, v in s["metrics"].items()}
    m["promoted"] = r.get("promotion", {}).get("promoted", True)
    m["next"] = r.get("promotion", {}).get("next", r["round"])
    row["rounds"].append(m)
print(json.dumps(row))
PYTHON
    rm -rf "$out/store-$name"
}

for seed in 1 2 3; do base $seed; done
if ! diff -rq "$out/base-1" "$root/ops/jobs/quickstart-base" >&2; then
    echo "the checkpoint made here is not the one that ships" >&2
    exit 1
fi
for seed in 21 22 23 24 25; do run "self judge" 1 $seed; done
run "self judge" 2 21
run "self judge" 3 21
for seed in 21 22 23 24 25; do run "random judge" 1 $seed judges.self.kind=random; done
for seed in 21 22; do run "gold judge" 1 $seed judges.self.kind=rule judges.self.rule=steps-and-number pairs.min_chosen=1; done
for seed in 21 22; do run "temporal" 1 $seed pairs.rejected_model=policy; done
for seed in 21 22 23; do run "no gate" 1 $seed promote.not_worse_than=nothing; done

python3 - "$out" <<'PYTHON'
import glob, json, statistics, sys
rows = [json.load(open(p)) for p in sorted(glob.glob(sys.argv[1] + "/*.json"))]
order = ["self judge", "random judge", "gold judge", "temporal", "no gate"]
rows.sort(key=lambda r: (order.index(r["arm"]), r["base"], r["seed"]))
print("| arm | base | seed | base greedy / sampled | after each round: greedy / sampled (x: blocked) | promoted: greedy / sampled | gain greedy / sampled | judge accuracy by round | pairs by round | max logp gap | seconds |")
print("|---|---|---|---|---|---|---|---|---|---|---|")
p = lambda v: "%.1f" % (100 * v)
gains = {}
for r in rows:
    m = r["rounds"]
    version, last = 0, m[0]
    by_version = {0: m[0]}
    for i, x in enumerate(m):
        by_version[i] = x
    last = by_version[m[-1]["next"]]
    g, s = last["greedy_accuracy"] - m[0]["greedy_accuracy"], last["sampled_accuracy"] - m[0]["sampled_accuracy"]
    gains.setdefault((r["arm"], r["base"]), []).append((100 * g, 100 * s))
    print("| %s | %d | %d | %s / %s | %s | %s / %s | %+.1f / %+.1f | %s | %s | %g | %.0f |" % (
        r["arm"], r["base"], r["seed"], p(m[0]["greedy_accuracy"]), p(m[0]["sampled_accuracy"]),
        ", ".join(p(x["greedy_accuracy"]) + " / " + p(x["sampled_accuracy"]) + ("" if x["promoted"] else " x") for x in m[1:]),
        p(last["greedy_accuracy"]), p(last["sampled_accuracy"]), 100 * g, 100 * s,
        ", ".join(p(x["judge_accuracy"]) for x in m if "judge_accuracy" in x), ", ".join(str(int(x.get("pairs", 0))) for x in m[1:]),
        max(x.get("max_logp_gap", 0) for x in m), r["seconds"]))
print()
for (arm, base), g in gains.items():
    print("- %s, base %d, n = %d: greedy %+.1f (%+.1f to %+.1f), sampled %+.1f (%+.1f to %+.1f)" % (
        arm, base, len(g), statistics.mean(x for x, _ in g), min(x for x, _ in g), max(x for x, _ in g),
        statistics.mean(y for _, y in g), min(y for _, y in g), max(y for _, y in g)))
PYTHON
