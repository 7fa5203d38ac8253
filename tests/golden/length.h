/* length.h: how many values a dataset of a file made by the scripts of this folder has. */
#ifndef TESTS_GOLDEN_LENGTH_H
#define TESTS_GOLDEN_LENGTH_H

#include <hdf5.h>
#include <stdint.h>

static inline int64_t length_of(hid_t file, const char *name)
{
    hid_t set = H5Dopen2(file, name, H5P_DEFAULT), space = H5Dget_space(set);
    int64_t n = H5Sget_simple_extent_npoints(space);
    H5Sclose(space);
    H5Dclose(set);
    return n;
}

#endif
