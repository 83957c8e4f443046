# Sourced by run and bench: root, build, plugin; leaves with status 77 and one line where there is nothing to run on.
root=$(cd "$(dirname "$0")/../.." && pwd)
build=$root/build/cuda
me=tests/gpu/$(basename "$0")
if [ "${1:-}" = --build ]; then
    build=$2
fi

nothing() {
    echo "$me: $1: nothing has run"
    exit 77
}

gpu=$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null | head -n 1) || true
[ -n "$gpu" ] || nothing "no GPU here (nvidia-smi finds none)"
[ -n "$(command -v nvcc || ls /usr/local/cuda/bin/nvcc 2>/dev/null)" ] || nothing "no nvcc here to build the plugin with"

# build_it TARGET ...: quietly, unless it fails.
build_it() {
    if [ "$build" = "$root/build/cuda" ]; then
        (cd "$root" && cmake --preset cuda) >/tmp/joust-gpu-build.$$ 2>&1 || { cat /tmp/joust-gpu-build.$$; exit 1; }
    fi
    cmake --build "$build" --target "$@" >/tmp/joust-gpu-build.$$ 2>&1 || { tail -n 40 /tmp/joust-gpu-build.$$; exit 1; }
    rm -f /tmp/joust-gpu-build.$$
}

# Names the machine and the tree.
head_line() {
    echo "$me, $(date -u +%Y-%m-%d), $(git -C "$root" rev-parse --short HEAD 2>/dev/null || echo 'no git'): $gpu"
    nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
    "$nvcc" --version | sed -n 's/^Cuda compilation tools, /  /p'
}
