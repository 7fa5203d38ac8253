#!/bin/sh
# Every header compiles alone. Arguments: the compiler and its flags.
set -eu
status=0
for header in $(find common data infer serve train tests -name '*.h' | sort); do
    printf '#include "%s"\n' "$header" | "$@" -Wno-unused-function -fsyntax-only -x c - || {
        echo "headers: $header does not compile alone"
        status=1
    }
done
[ $status -eq 0 ] && echo "headers: clean"
exit $status
