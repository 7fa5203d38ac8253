#!/bin/sh
# A file includes only its own folder and lower floors (README: how to read the code).
set -eu
status=0
floor() {
    case "$1" in
    common/base | common/base/*) echo 0 ;;
    common/kernels | common/kernels/* | common/dist | common/text | common/text/jinja) echo 1 ;;
    common/model) echo 2 ;;
    common/store) echo 3 ;;
    data/corpus | data/convert | data/tasks) echo 4 ;;
    data | infer/decode | infer/web) echo 5 ;;
    infer | infer/score | infer/eval/page) echo 6 ;;
    infer/eval | serve | train/math | train/run) echo 7 ;;
    train) echo 8 ;;
    tests | tests/*) echo 9 ;;
    *) echo "unknown" ;;
    esac
}
for file in $(find common data infer serve train tests -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' | sort); do
    own=$(dirname "$file")
    mine=$(floor "$own")
    if [ "$mine" = unknown ]; then
        echo "floors: $file: the folder $own has no floor: add it to tests/lint/floors.sh and the README"
        status=1
        continue
    fi
    for include in $(sed -n 's/^#include "\(.*\)".*/\1/p' "$file"); do
        if [ ! -f "$include" ]; then
            echo "floors: $file: includes \"$include\", which is no path from the root"
            status=1
            continue
        fi
        other=$(dirname "$include")
        theirs=$(floor "$other")
        [ "$other" = "$own" ] && continue
        # base/files and base/config are rooms of base, kernels/ref and kernels/cpu of kernels; dist may see kernels
        # (backend memory)
        case "$own:$other" in
        common/kernels*:common/kernels* | common/text:common/text/jinja | common/text/jinja:common/text | common/base/files:common/base | common/base/config:common/base | common/base/config:common/base/files | common/base/manual:common/base | common/base/manual:common/base/config | common/dist:common/kernels | tests*:tests*) continue ;;
        esac
        if [ "$theirs" -ge "$mine" ]; then
            echo "floors: $file (floor $mine) includes $include (floor $theirs)"
            status=1
        fi
    done
    case "$file" in
    *_main.c | tests/*) ;;
    *.c)
        first=$(sed -n 's/^#include "\(.*\)".*/\1/p' "$file" | head -1)
        header="${file%.c}.h"
        if [ -f "$header" ] && [ "$first" != "$header" ]; then
            echo "floors: $file: its own header must come first, not $first"
            status=1
        fi
        ;;
    esac
done
[ $status -eq 0 ] && echo "floors: clean"
exit $status
