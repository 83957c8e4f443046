#!/bin/sh
# Masks through launch: every response is a choice, or matches the expression as a whole; training goes on.
. "$(dirname "$0")/common.sh"
sed -i -e '/^promote:/d' -e '/^evaluate:/d' -e 's/^rounds: .*/rounds: 1/' -e 's/per_round: 24/per_round: 8/' \
    -e 's/^train: .*/train: {learning_rate: 1e-4, batch_size: 4, max_steps: 3}/' "$dir/job.yaml"

# masked PATTERN SETTING ...
masked() {
    pattern=$1
    shift
    SETS=""
    for setting; do
        SETS="$SETS --set $setting"
    done
    begin "$dir/store" --workers 1 --judges 1
    finish 0
    "$joust" trajectories export --store "$dir/store" | sed 's/.*"response":"\([^"]*\)".*"finish":"\([^"]*\)".*/\2 \1/' >"$dir/answers"
    grep -q '^stop ' "$dir/answers" || fail "$*: no response ended"
    ! grep '^stop ' "$dir/answers" | grep -v -E -x "stop ($pattern)" || fail "$*: a response that isn't allowed"
    rm -rf "$dir/store" "$dir/store.out"
}
masked '[0-9]+( [0-9]+){0,3}' "rollout.regex='[0-9]+(\\x20[0-9]+){0,3}'" train.loss=ipo
masked 'yes|no|has' 'rollout.choices=[yes,no,has]' train.forced_tokens=true

status=0
"$joust" validate "$dir/job.yaml" --set 'rollout.regex=(a' >"$dir/refused" 2>&1 || status=$?
[ $status = 2 ] && grep -q "rollout.regex: regex: byte 2: ( is not closed" "$dir/refused" || fail "regex: $(cat "$dir/refused")"
