#include "data/corpus/corpus_file.h"

#include <stdbool.h>
#include <stdlib.h>

void rf_corpus_file_quiet(void)
{
    /* A file that could not be closed for want of space is tried again by HDF5's clean-up at exit,
     * which crashes. Every file is closed without it. Only a first call in the process counts. */
    H5dont_atexit();
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

herr_t rf_corpus_file_set(hid_t file, const char *name, hid_t type, const void *data, size_t n)
{
    hsize_t dims = n;
    hid_t space = H5Screate_simple(1, &dims, NULL);
    hid_t attribute = H5Acreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    herr_t result = H5Awrite(attribute, type, data);
    if (H5Aclose(attribute) < 0) {
        result = -1;
    }
    H5Sclose(space);
    return result;
}

/* The attribute if it holds integers, and how many. */
static hid_t open_integers(hid_t file, const char *name, hsize_t *n)
{
    if (H5Aexists(file, name) <= 0) {
        return -1;
    }
    hid_t attribute = H5Aopen(file, name, H5P_DEFAULT);
    hid_t type = H5Aget_type(attribute), space = H5Aget_space(attribute);
    hssize_t points = H5Sget_simple_extent_npoints(space);
    bool fits = H5Tget_class(type) == H5T_INTEGER && points >= 0;
    *n = fits ? (hsize_t)points : 0;
    H5Tclose(type);
    H5Sclose(space);
    if (!fits && attribute >= 0) {
        H5Aclose(attribute);
        return -1;
    }
    return attribute;
}

herr_t rf_corpus_file_get(hid_t file, const char *name, hid_t type, void *data, size_t n)
{
    hsize_t present = 0;
    hid_t attribute = open_integers(file, name, &present);
    if (attribute < 0) {
        return -1;
    }
    herr_t result = present == n ? H5Aread(attribute, type, data) : -1;
    H5Aclose(attribute);
    return result;
}

herr_t rf_corpus_file_get_text(hid_t file, const char *name, char **text, size_t *bytes)
{
    *text = NULL;
    hsize_t n = 0;
    hid_t attribute = open_integers(file, name, &n);
    if (attribute < 0) {
        return -1;
    }
    herr_t result = -1;
    char *read = n < SIZE_MAX ? malloc((size_t)n + 1) : NULL;
    if (read != NULL) {
        result = n == 0 ? 0 : H5Aread(attribute, H5T_NATIVE_UCHAR, read);
        read[n] = '\0';
    }
    H5Aclose(attribute);
    if (result < 0) {
        free(read);
        return -1;
    }
    *text = read;
    *bytes = (size_t)n;
    return 0;
}
