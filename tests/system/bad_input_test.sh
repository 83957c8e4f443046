#!/bin/sh
# A careless user: what a job file or the files that it names have wrong is said with its place, the exit status is 2, and
# nothing was written. Then a job under odd circumstances, which must do.
. "$(dirname "$0")/common.sh"
absent=$dir/absent

# refused TEXT [OPTION ...]: the launch of the job is refused with a message that has TEXT in it.
refused() {
    text=$1
    shift
    status=0
    "$joust" launch "$dir/job.yaml" --store "$absent" "$@" >"$dir/refused" 2>&1 || status=$?
    [ $status = 2 ] || fail "status $status for '$text': $(cat "$dir/refused")"
    grep -q -F -e "$text" "$dir/refused" || fail "no '$text' in: $(cat "$dir/refused")"
    [ ! -e "$absent" ] || fail "'$text': something was written"
}

pristine=$dir/pristine
cp -r "$dir/data" "$pristine"
cp "$dir/job.yaml" "$pristine"
restore() {
    rm -rf "$dir/data"
    cp -r "$pristine" "$dir/data"
    mv "$dir/data/job.yaml" "$dir/job.yaml"
}
edit() {
    restore
    sed -i "$1" "$dir/job.yaml"
}

edit 's/^seed: 11/sede: 11/'
refused "job.yaml:3:1: sede: unknown key; did you mean 'seed'?"
edit 's/samples: 4/samples: four/'
refused "job.yaml:8:21: rollout.samples: expected a whole number from 1 to 4096; found four"
edit 's/samples: 4/samples: 0/'
refused "expected a whole number from 1 to 4096; found 0"
edit 's/{prompt}/{promp}/'
refused "rollout.template: template: {promp} is no slot here; did you mean {prompt}"
# Everything at once, each at the place of its key.
edit 's/rule: steps-and-number, //; s/kind: yes-no, model: policy/kind: yes-no, model: polic/; s/^promote: .*/promote: {prompts: data\/validation.jsonl, judge: exakt}/'
refused "job.yaml:10:39: judges[0].model: 'polic' isn't one of models:"
refused "job.yaml:11:5: judges[1].rule: missing: final-number"
refused "job.yaml:14:50: promote.judge: 'exakt' isn't one of judges:"
refused "job.yaml: 3 problems"
edit 's/{prompt}/{promp}/; s/<eos><judge>/&/'
: >"$dir/data/test.jsonl"
refused "job.yaml:8:68: rollout.template: template: {promp} is no slot here"
refused "job.yaml: 1 problem"
edit 's/^cluster:  {/cluster: {memory_mb: 1, /'
rm "$dir/data/config.json"
refused "job.yaml:6:11: models.policy: $dir/data/config.json: can't open"
refused "job.yaml:16:22: cluster.memory_mb: cluster.memory_mb is 1, and the program alone needs"
refused "job.yaml: 2 problems"
edit 's/, judged_by: self//'
: >"$dir/data/test.jsonl"
sed -i '3s/.*/{"prompt": 5}/' "$dir/data/rounds.jsonl"
refused "job.yaml:7:18: prompts.file: $dir/data/rounds.jsonl:3: key 'prompt': expected a string"
refused "job.yaml:15:21: evaluate.prompts: $dir/data/test.jsonl: empty"
refused "job.yaml: 2 problems"
restore
refused "at most 1024" --workers 100000
edit 's/temperature: 1.0, max_tokens: 20/temperature: 0, max_tokens: 20/'
refused "rollout.temperature: 0 gives the same answer each time"
edit 's/name: self, kind: yes-no, model: policy/name: other, kind: rule, rule: exact/'
refused "pairs.min_chosen: 1.5: no pair can be: the job's reward judges give 0 to 1" --set pairs.min_chosen=1.5
refused "pairs.min_margin: 2: no pair can be" --set pairs.min_margin=2
edit 's/name: self, kind: yes-no,/name: self, kind: yes-no, labels: [agree, no],/'
refused "label 'agree' is not in the vocabulary of its model"
edit 's/name: self, kind: yes-no,/name: self, kind: yes-no, labels: [yes, yes],/'
refused "labels 'yes' and 'yes' are the same tokens"
restore
mkdir "$dir/mine"
touch "$dir/mine/letter"
if "$joust" launch "$dir/job.yaml" --store "$dir/mine" >"$dir/refused" 2>&1; then
    fail "a folder with other files became a store"
fi
grep -q "has files in it and is no store" "$dir/refused" || fail "a folder of mine: $(cat "$dir/refused")"
if "$joust" coordinator "$dir/job.yaml" --store "$dir/mine" --listen ipc://"$dir/c" >"$dir/refused" 2>&1; then
    fail "a folder with other files became the coordinator's store"
fi
grep -q "has files in it and is no store" "$dir/refused" || fail "a folder of mine: $(cat "$dir/refused")"
touch "$dir/mine/launch.lock" # a lock makes it no store
if "$joust" launch "$dir/job.yaml" --store "$dir/mine" >"$dir/refused" 2>&1; then
    fail "a folder with other files and a lock became a store"
fi
grep -q "has files in it and is no store" "$dir/refused" || fail "a lock in a folder of mine: $(cat "$dir/refused")"
rm "$dir/mine/launch.lock"
[ "$(ls "$dir/mine")" = letter ] || fail "something was written: $(ls "$dir/mine")"
rm "$dir/data/rounds.jsonl"
refused "job.yaml:7:18: prompts.file: no file"
restore
sed -i 's/"reference"/"refrence"/' "$dir/data/test.jsonl"
refused "judge 'exact' compares with a reference, which 24 of the 24 lines of"
restore
: >"$dir/data/test.jsonl"
refused "test.jsonl: empty"
restore
sed -i '3s/.*/{"prompt": 5}/' "$dir/data/rounds.jsonl"
refused "rounds.jsonl:3: key 'prompt': expected a string"
restore
printf '{"prompt":"\377"}\n' >>"$dir/data/rounds.jsonl"
refused "rounds.jsonl:201: not JSON"
restore
long=$(head -c 600 /dev/zero | sed 's/\x00/1 /g')
echo "{\"prompt\":\"$long\"}" >>"$dir/data/rounds.jsonl"
refused "rounds.jsonl:201: the prompt has 602 tokens, and the model's context is 64"
"$joust" validate "$dir/job.yaml" --set rollout.long_prompts=cut >"$dir/refused" 2>&1 || fail "cut: $(cat "$dir/refused")"
restore
sed -i '5s/"reference"/"refrence"/' "$dir/data/test.jsonl"
"$joust" validate "$dir/job.yaml" >"$dir/refused" 2>&1 || fail "one line: $(cat "$dir/refused")"
grep -q "warning: .*which 1 of the 24 lines of .* lack, the first in line 5: it skips them" "$dir/refused" ||
    fail "nothing says that a line has no reference: $(cat "$dir/refused")"
restore
head -c 500 "$pristine/tokenizer.json" >"$dir/data/tokenizer.json"
refused "models.policy: $dir/data/tokenizer.json:"
restore
rm "$dir/data/config.json"
refused "models.policy: $dir/data/config.json: can't open"

restore
odd="$dir/spa ce ü"
mkdir "$odd"
(
    umask 077
    ulimit -n 64
    cd "$odd"
    env -u HOME -u PATH LANG=tr_TR.UTF-8 TZ=Asia/Kathmandu "$joust" launch "$dir/job.yaml" --store "my st'ore" <&- >&- 2>&-
) || fail "a launch without standard descriptors ended with $?"
begin "$dir/quiet"
finish 0
same "$dir/quiet" "$odd/my st'ore"

status=0
"$joust" launch "$dir/job.yaml" --store "$dir/quiet" --set seed=12 >"$dir/refused" || status=$?
[ $status = 2 ] && grep -q "seed is 11 in the job recorded here, and 12 in the job given" "$dir/refused" ||
    fail "status $status, another job: $(cat "$dir/refused")"

# A GPU that isn't there: said once, before anything begins; validate, which may run elsewhere, warns.
restore
export JOUST_CUDA_PLUGIN=/nowhere.so
sed -i 's/^cluster:  {/cluster:  {device: cuda, /' "$dir/job.yaml"
refused "job.yaml:16:20: cluster.device: there is no /nowhere.so: build it"
refused "job.yaml: 1 problem"
"$joust" validate "$dir/job.yaml" >"$dir/refused" 2>&1 || fail "a GPU elsewhere: $(cat "$dir/refused")"
grep -q "16:20: warning: cluster.device: there is no /nowhere.so" "$dir/refused" || fail "a GPU: $(cat "$dir/refused")"
restore
refused "cluster.device: there is no /nowhere.so: build it" --device cuda
status=0
"$joust" launch "$dir/job.yaml" --store "$dir/quiet" --set rounds=3 --device cuda >"$dir/refused" 2>&1 || status=$?
[ $status = 2 ] && [ "$(grep -c "no /nowhere.so" "$dir/refused")" = 1 ] || fail "a GPU on resume: $(cat "$dir/refused")"
unset JOUST_CUDA_PLUGIN

# Weights, too, are looked at before anything begins.
cp -r "$dir/quiet/checkpoints/policy" "$pristine/trained"
restore
sed -i 's/path: data, init: 3/path: data\/trained/' "$dir/job.yaml"
truncate -s -100 "$dir/data/trained/model.safetensors"
refused "models.policy: $dir/data/trained/model.safetensors: tensor"
cp "$pristine/trained/model.safetensors" "$dir/data/trained/"
sed -i 's/"intermediate_size": *[0-9]*/"intermediate_size": 13/' "$dir/data/trained/config.json"
refused "config.json asks for (13, "
cp "$pristine/trained/config.json" "$dir/data/trained/"
sed -i 's/LlamaForCausalLM/LlamaForSequenceClassification/; s/"model_type"/"num_labels": 1, &/' "$dir/data/trained/config.json"
refused "LlamaForSequenceClassification has a scalar head"

# A model named by hub id is looked up in the local cache: there it is, and there it isn't.
mkdir -p "$dir/hub/models--me--tiny/refs" "$dir/hub/models--me--tiny/snapshots"
cp -r "$pristine/trained" "$dir/hub/models--me--tiny/snapshots/abc"
printf abc >"$dir/hub/models--me--tiny/refs/main"
export HF_HUB_CACHE="$dir/hub"
sed -i 's|path: data/trained|path: me/tiny|' "$dir/job.yaml"
"$joust" validate "$dir/job.yaml" >"$dir/validated" || fail "a hub id in the cache: $(cat "$dir/validated")"
grep -q "$dir/hub/models--me--tiny/snapshots/abc" "$dir/validated" || fail "the snapshot isn't told: $(cat "$dir/validated")"
sed -i 's|path: me/tiny|path: me/huge|' "$dir/job.yaml"
refused "me/huge is not in the Hugging Face cache $dir/hub at revision main; Joust downloads nothing"

# One prompt of eight is longer than it may be: refused or cut, as the job says, and counted where the rounds are shown.
restore
{
    head -n 7 "$pristine/rounds.jsonl"
    echo "{\"prompt\":\"$long\",\"reference\":\"#### 1\"}"
} >"$dir/data/rounds.jsonl"
sed -i 's/max_tokens: 20,/max_tokens: 20, stop: ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"],/' "$dir/job.yaml"
for policy in refuse:refused cut:cut; do
    begin "$dir/${policy%:*}" --set rounds=1 --set prompts.per_round=8 --set rollout.max_prompt_tokens=40 \
        --set "rollout.long_prompts=${policy%:*}"
    finish 0
    "$joust" rounds --store "$dir/${policy%:*}" --json | grep -q "\"${policy#*:}_prompts\":{\"value\":1," ||
        fail "$policy: not counted: $("$joust" rounds --store "$dir/${policy%:*}" --json)"
done
"$joust" rounds --store "$dir/cut" --json | grep -q '"empty_answers":{"value":[1-9]' || fail "empty answers aren't counted"
grep -q "1 of 8 prompts are too long: their responses have no token" "$dir/refuse.out" || fail "refused in silence: $(cat "$dir/refuse.out")"
[ "$("$joust" trajectories export --store "$dir/refuse" | grep -c '"tokens":\[\]')" -ge 4 ] || fail "answers of no token"

# A loss that stops being finite: the step is named, the job fails, and the versions that there are stay whole.
begin "$dir/infinite" --set rounds=1 --set prompts.per_round=8 --set rollout.long_prompts=cut --set rollout.max_prompt_tokens=40 \
    --set train.learning_rate=10 --set train.weight_decay=10 --set train.schedule=constant --set train.max_steps=40
finish 1
grep -q "failure 3 of 3: step [1-9][0-9]*: training step [1-9].*not finite" "$dir/infinite.out" ||
    fail "no step is named: $(cat "$dir/infinite.out")"
"$joust" store check --store "$dir/infinite" >"$dir/refused" || fail "after a loss that isn't finite: $(cat "$dir/refused")"
