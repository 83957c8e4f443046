#!/bin/sh
# symbols.sh LIBRARY ...: every external symbol that a library defines begins with joust_.
[ $# -gt 0 ] || { echo "no libraries given"; exit 2; }
status=0
for library; do
    [ -e "$library" ] || { echo "$library: not built, passed over"; continue; }
    n=$(nm -g --defined-only "$library" 2>/dev/null | awk 'NF == 3' | wc -l)
    bad=$(nm -g --defined-only "$library" 2>/dev/null |
        awk 'NF == 3 && $3 !~ /^joust_/ && $3 !~ /^(__asan|__odr_asan|__tsan|__ubsan|__sanitizer|__gcov|__llvm|__start_|__stop_)/ { print $3 }')
    [ "$n" -gt 0 ] || { echo "$library: no symbol found"; status=1; }
    [ -z "$bad" ] || { echo "$library:"; echo "$bad"; status=1; }
done
exit $status
