#!/bin/sh
# Copies the shared libraries that FILEs load into FOLDER, those of dependencies too, which ldd lists already. The
# C library's parts must be those of the machine that runs them; cuBLAS, half a gigabyte, is on a machine with CUDA
# (run.sh looks for it).
#
#   sh tests/device/libraries.sh FOLDER FILE...
set -eu
folder=$1
shift
mkdir -p "$folder"
for file in "$@"; do
    ldd "$file"
done | awk '$2 == "=>" && $3 ~ /^\// {print $3}' | sort -u |
    grep -v -E '/(libc|libm|libpthread|libdl|librt|libresolv|libcublas[^/]*|ld-linux[^/]*)\.so' |
    while read -r library; do
        cp -L "$library" "$folder/"
    done
