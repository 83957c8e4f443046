# Sourced by the system tests: `. common.sh`, after which $joust, $dir (removed at the end) and the functions below
# are there. JOUST_BUILD names the build folder.
set -eu

joust=$JOUST_BUILD/joust
here=$(cd "$(dirname "$0")" && pwd)
dir=$(mktemp -d /tmp/joust-system-XXXXXX)
export XDG_RUNTIME_DIR="$dir/run"
mkdir -m 700 "$XDG_RUNTIME_DIR"
launcher=""
others="" # processes that a test started by itself

# Whatever happens, nobody stays: roles die with their launcher.
leave() {
    status=$?
    [ -z "$launcher$others" ] || kill -9 $launcher $others 2>/dev/null || true
    [ $status = 0 ] || tail -n 5 "$dir"/*.out "$dir"/*/logs/*.log 2>/dev/null || true
    rm -rf "$dir"
    exit $status
}
trap leave EXIT
trap 'exit 130' INT TERM

"$JOUST_BUILD/quickstart_data" --out "$dir/data" --test 24 --validation 24 --rounds 200 --drills 8 --demos 8 \
    --verdicts 8
cp "$here/job.yaml" "$dir/job.yaml"

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

# now: milliseconds.
now() {
    date +%s%3N
}

# begin STORE [OPTION ...]: launches in the background; $launcher is its process id. SETS in the environment, words
# like "--set rounds=9", change every launch's job.
begin() {
    store=$1
    shift
    "$joust" launch "$dir/job.yaml" --store "$store" ${SETS-} "$@" >>"$store.out" 2>&1 &
    launcher=$!
}

# finish EXPECTED: waits for the launch, which must end with that status.
finish() {
    status=0
    wait "$launcher" || status=$?
    launcher=""
    [ "$status" = "$1" ] || fail "launch ended with $status, expected $1"
}

# roles STORE [NAME]: process ids of the running roles of that store (of those called NAME...), itself left out.
roles() {
    for process in /proc/[0-9]*; do
        command=$({ tr '\0' ' ' <"$process/cmdline"; } 2>/dev/null) || continue # it may be gone by now
        case $command in
        "joust ${2:-}"*" $1 "* | "joust ${2:-}"*" $1/cache"*) echo "${process#/proc/}" ;;
        esac
    done
}

# gone STORE WITHIN_MS: no role is left by then.
gone() {
    deadline=$(($(now) + $2))
    while left=$(roles "$1") && [ -n "$left" ]; do
        [ "$(now)" -lt "$deadline" ] || fail "still there: $left"
        sleep 0.05
    done
}

# await COMMAND ...: repeats it until it succeeds, at most 30 s.
await() {
    deadline=$(($(now) + 30000))
    until "$@" >/dev/null 2>&1; do
        [ "$(now)" -lt "$deadline" ] || fail "never came true: $*"
        sleep 0.05
    done
}

# result STORE: digests of everything canonical, one line each; the store must be clean. KINDS: what the job makes.
result() {
    "$joust" store check --store "$1" >"$1.check" || fail "store check: $(cat "$1.check")"
    for kind in ${KINDS-pairs trajectories verdicts}; do
        "$joust" $kind export --store "$1" >"$1.$kind" || fail "$kind export of $1"
        [ -s "$1.$kind" ] || fail "$kind export of $1 is empty"
        echo "$kind $(sha256sum <"$1.$kind")"
    done
}

# same A B: the two stores hold the same result.
same() {
    result "$1" >"$1.digests"
    result "$2" >"$2.digests"
    cmp "$1.digests" "$2.digests" || fail "$1 and $2 differ"
}

# set_train SETTING ...: SETS says them of train:.
set_train() {
    SETS=""
    for setting; do
        SETS="$SETS --set train.$setting"
    done
}

# refused TEXT SETTING ...: validate says TEXT of a train: with these settings.
refused() {
    text=$1
    shift
    set_train "$@"
    status=0
    "$joust" validate "$dir/job.yaml" $SETS >"$dir/refused" 2>&1 || status=$?
    [ $status = 2 ] || fail "$*: status $status: $(cat "$dir/refused")"
    grep -q -F -e "$text" "$dir/refused" || fail "$*: no '$text' in: $(cat "$dir/refused")"
}
