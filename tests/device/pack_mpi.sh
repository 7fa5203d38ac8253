#!/bin/sh
# Adds to a folder of tests/device/pack.sh, made of a build with MPI=1, what many.sh needs on a machine
# without MPI: mpirun and Open MPI's plugins of this machine (Debian's and Ubuntu's places), and the tests of
# ranks.
#
#   sh tests/device/pack_mpi.sh BUILD FOLDER
set -eu
if [ $# -ne 2 ]; then
    echo "usage: sh tests/device/pack_mpi.sh BUILD FOLDER" >&2
    exit 2
fi
build=$1 folder=$2
place=lib/$(gcc -print-multiarch)
for part in "/usr/$place/openmpi/lib/openmpi3" /usr/bin/orterun /usr/bin/orted /usr/share/openmpi; do
    [ -e "$part" ] || { echo "pack_mpi: $part is missing: is Open MPI 4 installed?" >&2; exit 1; }
done

mpi=$folder/mpi
rm -rf "$mpi"
mkdir -p "$mpi/bin" "$mpi/share" "$mpi/$place/openmpi/lib/openmpi3" "$folder/ranks"
cp /usr/bin/orterun "$mpi/bin/mpirun"
cp /usr/bin/orted "$mpi/bin/"
cp -r /usr/share/openmpi "$mpi/share/"
[ ! -d "/usr/$place/pmix2" ] || cp -r "/usr/$place/pmix2" "$mpi/$place/"
# Without what drives networks and batch systems, which this is not for.
for plugin in "/usr/$place"/openmpi/lib/openmpi3/*.so; do
    readelf -d "$plugin" | grep -q -E 'NEEDED.*lib(ucp|uct|ucs|fabric|ibverbs|rdmacm|psm|munge|slurm|cuda|pmi2?[.])' ||
        cp "$plugin" "$mpi/$place/openmpi/lib/openmpi3/"
done
for test in dist/test_dist train/math/test_gather store/test_checkpoint_ranks; do
    strip -o "$folder/ranks/$(basename "$test")" "$build/tests/$test"
done
sh tests/device/libraries.sh "$folder/lib" "$mpi"/bin/* "$mpi/$place"/openmpi/lib/openmpi3/*.so "$folder"/ranks/test_*
cp tests/device/many.sh "$folder/"
du -sh "$folder"
