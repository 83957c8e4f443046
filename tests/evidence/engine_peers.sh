#!/bin/bash
# The engine beside what a user would pick instead: llama.cpp, transformers and PyTorch, on the same random weights (the 15M
# and 110M Llama shapes, float32), the same threads, in one interleaved run. Prints what engine_peers.txt keeps.
#
#   tests/evidence/engine_peers.sh [--joust PROGRAM] [--work DIR] [--threads N] [--repeat N] [--shapes "15m 110m"]
#                               [--batches "1 32 64"] [--install-only]
#
# The peers are installed from the package index into DIR (default: build/peers) the first time: llama.cpp from the sources
# in llama-cpp-python's archive; --install-only ends there. A figure is the median of the repetitions; a ratio the median of the repetitions' ratios, whose
# parts run right after each other. On a machine that does other work too only ratios count, and only those of one thread: where
# a thread loses its processor the others wait for it at every step, llama.cpp's at the most.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
here=$root/tests/evidence joust=$root/build/release/joust work=$root/build/peers threads=2 repeat=3 shapes="15m 110m" batches="1 32 64" install_only=
while [ $# -gt 0 ]; do
    case $1 in
    --install-only) install_only=yes; shift; continue ;;
    --joust) joust=$2 ;; --work) work=$2 ;; --threads) threads=$2 ;; --repeat) repeat=$2 ;; --shapes) shapes=$2 ;; --batches) batches=$2 ;;
    *) echo "usage: $0 [--joust PROGRAM] [--work DIR] [--threads N] [--repeat N] [--shapes NAMES] [--batches NUMBERS] [--install-only]" >&2; exit 2 ;;
    esac
    shift 2
done
mkdir -p "$work"
python=$work/venv/bin/python

install_peers() {
    [ -x "$python" ] || python3 -m venv "$work/venv"
    "$python" -c 'import torch, transformers, gguf, safetensors' 2>/dev/null ||
        "$python" -m pip install -q torch transformers gguf safetensors numpy
    ls -d "$work"/llama_cpp_python-*/ >/dev/null 2>&1 || {
        "$python" -m pip download -q llama-cpp-python --no-deps --no-binary :all: -d "$work"
        tar -C "$work" -xzf "$work"/llama_cpp_python-*.tar.gz
    }
    llama=$(echo "$work"/llama_cpp_python-*/vendor/llama.cpp)
    [ -e "$work/build/bin/libllama.so" ] || {
        cmake -S "$llama" -B "$work/build" -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DLLAMA_BUILD_COMMON=OFF \
            -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF
        cmake --build "$work/build" --target llama -j "$threads"
    }
    cc -O2 -I "$llama/include" -I "$llama/ggml/include" "$here/engine_peers_llama.c" -o "$work/llama_generate" \
        -L "$work/build/bin" -lllama -lggml -lggml-base -Wl,-rpath,"$work/build/bin"
}

# The median of the numbers on standard input.
median() {
    sort -g | awk '{x[NR] = $1} END {print NR % 2 ? x[(NR + 1) / 2] : (x[NR / 2] + x[NR / 2 + 1]) / 2}'
}

joust_rate() { # FIGURE OPTION ...
    "$joust" bench engine --model "$work/$shape" --threads "$threads" --repeat 1 --json --figure "$@" |
        sed 's/.*"tokens_per_s":\([0-9.]*\).*/\1/'
}

quotient() { awk -v a="$1" -v b="$2" 'BEGIN {printf "%.4f\n", a / b}'; }

# line WHAT: medians and the medians of ratios of the files that a loop has filled.
line() {
    printf '%-5s %-12s %10.2f %12.2f %12.2f' "$shape" "$1" "$(median <"$work/a")" "$(median <"$work/b")" "$(median <"$work/c")"
    [ -s "$work/ab" ] && printf '   joust / llama.cpp %.2f' "$(median <"$work/ab")"
    printf '   joust / Python %.2f\n' "$(median <"$work/ac")"
}

clear_figures() { rm -f "$work"/{a,b,c,ab,ac}; touch "$work"/{a,b,c,ab,ac}; }

generate() { # PROMPTS SAMPLES
    local i a b c
    clear_figures
    for ((i = 0; i < repeat; i++)); do
        a=$(joust_rate generate --prompts "$1" --samples "$2")
        b=$("$work/llama_generate" "$work/$shape.gguf" "$threads" "$1" "$2" 32 64)
        c=$("$python" "$here/engine_peers_torch.py" generate "$work/$shape" "$threads" "$1" "$2" 32 64 2>/dev/null)
        echo "$a" >>"$work/a"; echo "$b" >>"$work/b"; echo "$c" >>"$work/c"
        quotient "$a" "$b" >>"$work/ab"; quotient "$a" "$c" >>"$work/ac"
    done
    line "batch $(($1 * $2))"
}

train() { # rows of a step: 8 pairs of 32 + 64 + 64 tokens
    local i a c
    clear_figures
    for ((i = 0; i < repeat; i++)); do
        a=$(quotient "$(joust_rate train --pairs 8)" $((8 * 160)))
        c=$("$python" "$here/engine_peers_torch.py" train "$work/$shape" "$threads" 8 32 64 2>/dev/null)
        echo "$a" >>"$work/a"; echo 0 >>"$work/b"; echo "$c" >>"$work/c"
        quotient "$a" "$c" >>"$work/ac"
    done
    line "DPO steps/s"
}

install_peers >&2
peers="$(basename "$(dirname "$(dirname "$llama")")"), $("$python" -c 'import torch, transformers
print(f"torch {torch.__version__}, transformers {transformers.__version__}")')"
[ -z "$install_only" ] || { echo "installed $peers"; exit 0; }
echo "date      $(date -u +%Y-%m-%dT%H:%MZ)"
echo "commit    $(git -C "$root" rev-parse --short HEAD)"
echo "machine   $(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2 | sed 's/^ *//'), $(nproc) processors; $threads threads"
echo "peers     $peers"
echo "load      $(cut -d' ' -f1-3 /proc/loadavg) at the start; medians of $repeat"
echo
echo "tokens/s of generation: prompts of 32 tokens, 64 generated, temperature 1; joust, llama.cpp, transformers"
for shape in $shapes; do
    [ -d "$work/$shape" ] || "$joust" bench engine --shape "$shape" --save "$work/$shape"
    [ -f "$work/$shape.gguf" ] || "$python" "$here/engine_peers_gguf.py" "$work/$shape" "$work/$shape.gguf" >&2
    for batch in $batches; do # samples of one prompt, eight at most
        samples=$((batch < 8 ? batch : 8))
        generate $(((batch + 7) / 8)) $samples
    done
    train
done
echo
echo "load      $(cut -d' ' -f1-3 /proc/loadavg) at the end"
