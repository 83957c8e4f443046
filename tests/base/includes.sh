#!/bin/sh
# includes.sh ROOT: no source may include by a path with "../".
cd "$1" || exit 2
found=$(grep -rnE '^[[:space:]]*#[[:space:]]*include[[:space:]]*[<"][^">]*\.\./' \
    --include='*.[ch]' --include='*.cu' proto storage worker judge coordinator ops tests)
[ -z "$found" ] || { echo "$found"; exit 1; }
[ -n "$(find proto/ -name '*.c' | head -n 1)" ] || { echo "no sources found"; exit 1; }
